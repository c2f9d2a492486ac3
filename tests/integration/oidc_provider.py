"""An OpenID Connect provider to log in at: Django OAuth Toolkit, in a process of its own.

A user's name says what the provider does wrong for them in the ID token, which it signs all the same.
"""

import sys
from pathlib import Path
from typing import Any

import django
from django import conf
from django.core.management import call_command

CLIENT_ID, SECRET, PASSWORD = "endonode", "the client's secret", "correct horse battery"
USERS = {
    "anna": ["reviewers", "staff"],
    "adam": ["viewers", "administrators"],
    "nora": ["staff"],
    "vera": ["viewers"],
    "wrong-nonce": ["viewers"],
    "wrong-aud": ["viewers"],
    "wrong-iss": ["viewers"],
    "wrong-exp": ["viewers"],
    "wrong-signature": ["viewers"],
    "no-nonce": ["viewers"],
}
LOCMEM = "django.template.loaders.locmem.Loader"
FORM = """<form method="post">{% csrf_token %}{{ form.as_p }}<button>Enter</button></form>"""


def main(folder: Path, port: int, redirect_uris: str) -> None:
    """Serve until ended; what is kept lies in the folder."""
    key = folder / "provider.key"
    if not key.exists():
        from jwcrypto import jwk

        key.write_bytes(jwk.JWK.generate(kty="RSA", size=2048).export_to_pem(private_key=True, password=None))
    conf.settings.configure(
        SECRET_KEY=SECRET, ALLOWED_HOSTS=["*"], LOGIN_URL="/login", USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "provider.db"}},
        INSTALLED_APPS=[
            "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
            "oauth2_provider",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        TEMPLATES=[{
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {"loaders": [(LOCMEM, {"registration/login.html": FORM})]},
        }],
        MIGRATION_MODULES=dict.fromkeys(("auth", "contenttypes", "sessions", "oauth2_provider")),
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        SESSION_COOKIE_NAME="providers-session",
        OAUTH2_PROVIDER={
            "OIDC_ENABLED": True, "OIDC_RSA_PRIVATE_KEY": key.read_text(), "PKCE_REQUIRED": True,
            "OIDC_ISS_ENDPOINT": f"http://localhost:{port}/o", "SCOPES": {"openid": "Who", "profile": "What"},
            "ALLOWED_REDIRECT_URI_SCHEMES": ["http"],
        },
    )  # fmt: skip
    django.setup()
    conf.settings.OAUTH2_PROVIDER["OAUTH2_VALIDATOR_CLASS"] = validator()
    from django.contrib.auth.views import LoginView
    from django.urls import include, path

    conf.settings.ROOT_URLCONF = (
        path("o/", include("oauth2_provider.urls")),
        path("login", LoginView.as_view()),
    )
    fill(redirect_uris)
    call_command("runserver", f"localhost:{port}", "--noreload", "--skip-checks")


def fill(redirect_uris: str) -> None:
    """Make the tables, the people and the client."""
    from django.contrib.auth.models import Group, User
    from oauth2_provider.models import Application

    call_command("migrate", run_syncdb=True, verbosity=0)
    for name, groups in USERS.items():
        user = User.objects.create_user(name, password=PASSWORD)
        user.groups.set(Group.objects.get_or_create(name=group)[0] for group in groups)
    Application.objects.create(
        client_id=CLIENT_ID, client_secret=SECRET, redirect_uris=redirect_uris, skip_authorization=True,
        client_type="confidential", authorization_grant_type="authorization-code", algorithm="RS256",
    )  # fmt: skip


def validator() -> Any:
    """Return what makes the ID tokens; Django must be set up before it can be imported."""
    from oauth2_provider.oauth2_validators import OAuth2Validator

    class Validator(OAuth2Validator):  # type: ignore[misc]
        oidc_claim_scope = None

        def get_additional_claims(self, request: Any) -> dict[str, Any]:
            groups = [group.name for group in request.user.groups.all()]
            return {"preferred_username": request.user.username, "groups": groups}

        def get_id_token_dictionary(
            self, token: Any, handler: Any, request: Any
        ) -> tuple[dict[str, Any], Any]:
            claims, expires_at = super().get_id_token_dictionary(token, handler, request)
            fault, _, claim = request.user.username.partition("-")
            if fault == "wrong" and claim in ("aud", "iss", "nonce"):
                claims[claim] = "https://elsewhere.example"
                claims["azp"] = CLIENT_ID
            if (fault, claim) == ("wrong", "exp"):
                claims["exp"] -= 86_400
            return claims, expires_at

        def finalize_id_token(self, id_token: dict[str, Any], token: Any, handler: Any, request: Any) -> str:
            if request.user.username == "no-nonce":
                request.nonce = id_token.pop("nonce") and None
            signed: str = super().finalize_id_token(id_token, token, handler, request)
            if request.user.username == "wrong-signature":
                head, body, signature = signed.split(".")
                signed = f"{head}.{body}.{signature[:9]}{'A' if signature[9] != 'A' else 'B'}{signature[10:]}"
            return signed

    return Validator


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), " ".join(sys.argv[3:]))
