from pathlib import Path

import pytest
from pydantic import ValidationError

from node.errors import SettingsError
from node.settings import RESERVED, Settings, load_settings

PEER = '[[peers]]\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 4242\n'


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's own variables must not decide these tests."""
    import os

    for variable in list(os.environ):
        if variable.startswith("ENDONODE_"):
            monkeypatch.delenv(variable)


def load(tmp_path: Path, text: str) -> Settings:
    config = tmp_path / "endonode.toml"
    config.write_text(text, encoding="utf-8")
    return load_settings(config)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message, "the command line prints it as one line"
    return message


def test_without_a_file_the_defaults_hold() -> None:
    settings = load_settings(None)
    assert (settings.ae_title, settings.port, settings.bind) == ("ENDONODE", 11112, "127.0.0.1")
    assert settings.peers == ()


def test_a_file_is_read(tmp_path: Path) -> None:
    settings = load(tmp_path, f'ae_title = "NODE2"\nquiet_time_s = 2.5\n{PEER}addresses = ["10.0.0.0/8"]')
    peer = settings.peer("PACS")
    assert settings.ae_title == "NODE2"
    assert settings.quiet_time_s == 2.5
    assert peer is not None
    assert peer.addresses == ("10.0.0.0/8",)
    assert peer.receives_results is False, "nothing leaves for a peer that was not named for it"
    assert settings.peer("OTHER") is None


def test_a_variable_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDONODE_PORT", "104")
    monkeypatch.setenv("ENDONODE_PEERS", '[{"ae_title": "OTHER", "host": "h", "port": 1}]')
    settings = load(tmp_path, f"port = 11113\n{PEER}")
    assert settings.port == 104
    assert [peer.ae_title for peer in settings.peers] == ["OTHER"]


def test_settings_are_frozen() -> None:
    """A setting that changes while the node runs would be true in one process and false in another."""
    with pytest.raises(ValidationError):
        load_settings(None).port = 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("quiet_times = 3", "quiet_time_s"),
        (PEER + "recieves_results = true", "receives_results"),
        ("[endoscopy]\nmodality = ['ES']", "modalities"),
        ("[lower_gi]\nbodyparts = ['COLON']", "body_parts"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(tmp_path: Path, text: str, named: str) -> None:
    """A misspelt key that is passed over leaves a default in force that the operator believes changed."""
    message = refusal(tmp_path, text)
    assert "unknown key" in message
    assert f"nearest is {named!r}" in message


def test_an_unknown_variable_is_refused_and_the_nearest_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDONODE_QUIET_TIME", "3")
    with pytest.raises(SettingsError, match=r"ENDONODE_QUIET_TIME .*'ENDONODE_QUIET_TIME_S'"):
        load_settings(None)


@pytest.mark.parametrize("variable", sorted(RESERVED))
def test_a_reserved_variable_is_no_setting(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "/somewhere")
    assert load_settings(None) == Settings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("port = 70000", "port"),
        ('ae_title = "LONGER-THAN-16-CHARACTERS"', "1-16 ASCII"),
        ('ae_title = "A\\\\B"', "backslash"),
        ('ae_title = "  "', "1-16 ASCII"),
        ('timezone = "Mars/Olympus"', "IANA time zone"),
        ('timezone = "../etc/passwd"', "IANA time zone"),
        ("quiet_time_s = 0", "quiet_time_s"),
        ('other_objects = "drop"', "other_objects"),
        (PEER + 'addresses = ["localhost"]', "'localhost' was found"),
        (PEER + PEER, "named twice: PACS"),
        ("[[peers]]\nae_title = 'PACS'", "peers.0.host: it is required"),
        (PEER + 'addresses = "10.0.0.1"', "peers.0.addresses: a list in square brackets was expected"),
        ('port = "x"', "port: a whole number was expected"),
        ('max_wait_s = "long"', "max_wait_s: a number was expected"),
        ("max_wait_s = inf", "max_wait_s: a finite number was expected"),
        (PEER + 'may_send = "perhaps"', "peers.0.may_send: true or false was expected"),
        ("ae_title = 5", "ae_title: text in quotes was expected"),
        ("storage_dir = 5", "storage_dir: a path in quotes was expected"),
        ("peers = [5]", "peers.0: a table was expected"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(str(tmp_path))
    assert named in message


@pytest.mark.parametrize("value", ["x", '{"a": 1}', "[{]"])
def test_a_variable_that_does_not_fit_is_blamed_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Naming the file would send the operator to the wrong place."""
    monkeypatch.setenv("ENDONODE_PEERS", value)
    message = refusal(tmp_path, "")
    assert message.startswith("environment")
    assert "peers" in message.lower()


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such settings file"):
        load_settings(tmp_path / "absent.toml")
    assert "TOML was expected" in refusal(tmp_path, "port: 104")
    with pytest.raises(SettingsError, match="TOML was expected"):
        load_settings(tmp_path)


def test_every_setting_says_what_it_is() -> None:
    """docs/settings.md is made of these descriptions."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        if name.endswith(("_s", "_bytes", "_days")):
            unit = {"s": "econds", "bytes": "ytes", "days": "ays"}[name.rsplit("_", 1)[1]]
            assert unit in field.description, f"{name}: its description names no unit"
