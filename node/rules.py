"""What is read as endoscopy, and what is known not to be of the lower GI tract: rules of the settings."""

from pydantic import BaseModel, ConfigDict, Field


class Table(BaseModel):
    """A table of the settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EndoscopyRule(Table):
    """What is read as endoscopy: by class alone, or by class and modality together."""

    sop_classes: tuple[str, ...] = Field(
        default=("1.2.840.10008.5.1.4.1.1.77.1.1", "1.2.840.10008.5.1.4.1.1.77.1.1.1"),
        description="SOP classes that are always endoscopy (VL and Video Endoscopic).",
    )
    sop_classes_by_modality: tuple[str, ...] = Field(
        default=(
            "1.2.840.10008.5.1.4.1.1.77.1.4", "1.2.840.10008.5.1.4.1.1.77.1.4.1",
            "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.1", "1.2.840.10008.5.1.4.1.1.7.2",
            "1.2.840.10008.5.1.4.1.1.7.3", "1.2.840.10008.5.1.4.1.1.7.4",
        ),
        description="SOP classes that are endoscopy where Modality is one of `modalities`.",
    )  # fmt: skip
    modalities: tuple[str, ...] = Field(default=("ES",), description="Modality values that mean endoscopy.")


class LowerGiRule(Table):
    """What says that an exam is not of the lower gastrointestinal tract; silence is not a no."""

    body_parts: tuple[str, ...] = Field(
        default=(
            "COLON", "RECTUM", "CECUM", "CAECUM", "ILEUM", "TERMINALILEUM", "SIGMOID", "SIGMOIDCOLON",
            "LARGEINTESTINE", "BOWEL", "INTESTINE", "ANUS", "ANORECTUM", "SMALLBOWEL", "GITRACT",
            "DIGESTIVETRACT", "GASTROINTESTINALTRACT", "GASTROINTESTINAL", "LOWERGI",
        ),
        description="Body Part Examined values (blanks removed) that are lower GI.",
    )  # fmt: skip
    other_body_parts: tuple[str, ...] = Field(
        default=(
            "ESOPHAGUS", "OESOPHAGUS", "STOMACH", "DUODENUM", "UPPERGI", "GALLBLADDER", "BILEDUCT",
            "PANCREAS", "LIVER", "BRONCHUS", "TRACHEA", "LUNG", "LARYNX", "PHARYNX", "NASOPHARYNX",
            "OROPHARYNX", "HYPOPHARYNX", "THROAT", "NOSE", "NASALCAVITY", "SINUS", "PARANASALSINUS", "EAR",
            "EYE", "BLADDER", "URINARYBLADDER", "URETHRA", "URETER", "KIDNEY", "PROSTATE", "UTERUS",
            "CERVIX", "VAGINA", "OVARY", "KNEE", "SHOULDER", "HIP", "ELBOW", "WRIST", "ANKLE", "HEART",
            "SKIN",
        ),
        description="Body Part Examined values known not to be lower GI; any further one says nothing.",
    )  # fmt: skip
    region_codes: tuple[str, ...] = Field(
        default=(
            "71854001", "T-59300", "34402009", "T-59600", "32713005", "T-59100", "34516001", "T-58600",
            "60184004", "T-59470", "14742008", "T-59000", "113276009", "T-50500", "30315005", "T-58000",
            "9040008", "T-59420", "485005", "T-59440", "32622004", "T-59460",
        ),
        description="Anatomic Region code values (SCT or SRT) that are lower GI.",
    )  # fmt: skip
    other_region_codes: tuple[str, ...] = Field(
        default=(
            "32849002", "T-56000", "69695003", "T-57000", "38848004", "T-58200", "28231008", "T-63000",
            "28273000", "T-60610", "15776009", "T-65000", "10200004", "T-62000", "955009", "T-26000",
            "44567001", "T-25000", "39607008", "T-28000", "4596009", "T-24100", "54066008", "T-55000",
            "45206002", "T-21000", "71836000", "T-23000", "2095001", "T-22000", "89837001", "T-74000",
            "64033007", "T-71000", "87953007", "T-73000", "13648007", "T-75000", "41216001", "T-92000",
            "35039007", "T-83000", "71252005", "T-83200", "76784001", "T-82000", "15497006", "T-87000",
            "72696002", "T-D9200", "16982005", "T-D2220", "29836001", "T-D2500", "117590005",
        ),
        description="Anatomic Region code values known not to be lower GI; any further one says nothing.",
    )  # fmt: skip
    other_procedure_codes: tuple[str, ...] = Field(
        default=("10847001", "P1-20300", "76009000", "P1-51040"),
        description="Procedure code values that are known not to be lower GI (bronchoscopy, gastroscopy).",
    )
    descriptions: tuple[str, ...] = Field(
        default=("colonoscop", "coloscop", "ileoscop", "sigmoidoscop", "proctoscop", "rectoscop", "anoscop"),
        description="Words in a study, series or procedure description that are lower GI.",
    )
    other_descriptions: tuple[str, ...] = Field(
        default=(
            "bronchoscop", "gastroscop", "oesophag", "esophag", "duodenoscop", "cystoscop", "laryngoscop",
            "hysteroscop", "arthroscop", "laparoscop", "ercp", "egd", "ogd",
        ),
        description="Words in a study, series or procedure description that are known not to be lower GI.",
    )  # fmt: skip
