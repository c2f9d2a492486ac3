"""What we accept when a peer proposes presentation contexts: SOP classes and transfer syntaxes, each named.

UIDs go by their keywords in PS3.6 annex A; Storage SOP classes are those of PS3.4 table B.5-1, transfer
syntaxes those of PS3.5 8.2, 10 and annex A. JPEG XL, JPEG 2000 multi-component, JPIP and SMPTE ST 2110 are
not here: no decoder of ours reads them.
"""

from collections.abc import Collection

from pydicom import uid
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepWatch,
    Verification,
)

from node.settings import Peer, Settings

TRANSFER_SYNTAXES: tuple[str, ...] = (
    # Uncompressed and lossless first: of several that a peer offers in one context the first here is taken,
    # and it must never have to lose quality for us.
    uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.JPEGLosslessSV1, uid.JPEGLossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL, uid.RLELossless,
    uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless, uid.JPEG2000, uid.HTJ2K,
    uid.MPEG2MPML, uid.MPEG2MPMLF, uid.MPEG2MPHL, uid.MPEG2MPHLF,
    uid.MPEG4HP41, uid.MPEG4HP41F, uid.MPEG4HP41BD, uid.MPEG4HP41BDF, uid.MPEG4HP422D, uid.MPEG4HP422DF,
    uid.MPEG4HP423D, uid.MPEG4HP423DF, uid.MPEG4HP42STEREO, uid.MPEG4HP42STEREOF,
    uid.HEVCMP51, uid.HEVCM10P51,
)  # fmt: skip

IMAGE_CLASSES: tuple[str, ...] = (
    # What endoscopy arrives as; whether one object is read is the endoscopy rule's to say.
    uid.VLEndoscopicImageStorage, uid.VideoEndoscopicImageStorage,
    uid.VLPhotographicImageStorage, uid.VideoPhotographicImageStorage,
    uid.SecondaryCaptureImageStorage,
    uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
)  # fmt: skip

OTHER_CLASSES: tuple[str, ...] = (
    # What a PACS sends along with an endoscopy study: kept, not read. Refused, its "send study" would fail.
    uid.EncapsulatedPDFStorage, uid.EncapsulatedCDAStorage,
    uid.BasicTextSRStorage, uid.EnhancedSRStorage, uid.ComprehensiveSRStorage, uid.Comprehensive3DSRStorage,
    uid.ExtensibleSRStorage, uid.ProcedureLogStorage, uid.ColonCADSRStorage, uid.XRayRadiationDoseSRStorage,
    uid.EnhancedXRayRadiationDoseSRStorage, uid.KeyObjectSelectionDocumentStorage,
    uid.GrayscaleSoftcopyPresentationStateStorage, uid.ColorSoftcopyPresentationStateStorage,
    uid.PseudoColorSoftcopyPresentationStateStorage, uid.BlendingSoftcopyPresentationStateStorage,
    uid.AdvancedBlendingPresentationStateStorage, uid.XAXRFGrayscaleSoftcopyPresentationStateStorage,
    uid.BasicStructuredDisplayStorage,
    uid.SegmentationStorage, uid.ParametricMapStorage, uid.MicroscopyBulkSimpleAnnotationsStorage,
    uid.RealWorldValueMappingStorage, uid.SpatialRegistrationStorage, uid.RawDataStorage,
    uid.VLMicroscopicImageStorage, uid.VideoMicroscopicImageStorage,
    uid.VLSlideCoordinatesMicroscopicImageStorage, uid.VLWholeSlideMicroscopyImageStorage,
    uid.ConfocalMicroscopyImageStorage, uid.DermoscopicPhotographyImageStorage,
    uid.UltrasoundImageStorage, uid.UltrasoundMultiFrameImageStorage, uid.EnhancedUSVolumeStorage,
    uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation,
    uid.XRayAngiographicImageStorage, uid.XRayRadiofluoroscopicImageStorage, uid.EnhancedXAImageStorage,
    uid.EnhancedXRFImageStorage, uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.MRImageStorage,
    uid.EnhancedMRImageStorage, uid.NuclearMedicineImageStorage, uid.PositronEmissionTomographyImageStorage,
    uid.GeneralECGWaveformStorage, uid.TwelveLeadECGWaveformStorage, uid.BasicVoiceAudioWaveformStorage,
    uid.GeneralAudioWaveformStorage,
)  # fmt: skip

EMITTED_CLASSES: tuple[str, ...] = (
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage, uid.SecondaryCaptureImageStorage,
    uid.Comprehensive3DSRStorage, uid.ComprehensiveSRStorage, uid.KeyObjectSelectionDocumentStorage,
)  # fmt: skip

EMITTED_SYNTAXES: tuple[str, ...] = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)

QUERY_CLASSES: tuple[str, ...] = (
    # PS3.4 table C.6.1.3-1, C.6.2.3-1
    PatientRootQueryRetrieveInformationModelFind, PatientRootQueryRetrieveInformationModelMove,
    PatientRootQueryRetrieveInformationModelGet, StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove, StudyRootQueryRetrieveInformationModelGet,
)  # fmt: skip

WORKITEM_CLASSES: tuple[str, ...] = (UnifiedProcedureStepPush, UnifiedProcedureStepWatch)

NOT_STORAGE = frozenset(
    {Verification, StorageCommitmentPushModel, UnifiedProcedureStepEvent, *WORKITEM_CLASSES, *QUERY_CLASSES}
)


def echo_contexts() -> list[PresentationContext]:
    """Return what every known peer is offered: Verification (PS3.4 annex A)."""
    return [build_context(Verification)]


def commitment_contexts() -> list[PresentationContext]:
    """Return what every known peer may report on: commitments that we asked for (PS3.4 J.1.2.1).

    It proposes to be SCP on the association that it opens, which we accept (PS3.7 D.3.3.4).
    """
    context = build_context(StorageCommitmentPushModel)
    context.scu_role, context.scp_role = False, True
    return [context]


def workitem_contexts(peer: Peer) -> list[PresentationContext]:
    """Return what a peer may do with workitems (PS3.4 CC.3): give us some, watch them, report on its own.

    Implicit VR is preferred: their datasets are then kept in the very bytes that came.
    """
    syntaxes = [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian]
    offered = zip(WORKITEM_CLASSES, (peer.may_send, peer.may_query), strict=True)
    contexts = [build_context(sop_class, syntaxes) for sop_class, is_allowed in offered if is_allowed]
    if peer.workitem_period_s:
        events = build_context(UnifiedProcedureStepEvent, syntaxes)
        events.scu_role, events.scp_role = False, True  # as of commitments: who reports is the SCP
        contexts.append(events)
    return contexts


def storage_contexts(settings: Settings) -> list[PresentationContext]:
    """Return what a peer that may send is offered besides.

    With ``other_objects = "refuse"`` these are only the classes that the endoscopy rule can call endoscopy.
    """
    rule = settings.endoscopy
    if settings.other_objects == "keep":
        classes = IMAGE_CLASSES + OTHER_CLASSES
    else:
        read = {*rule.sop_classes, *rule.sop_classes_by_modality}
        classes = tuple(sop_class for sop_class in IMAGE_CLASSES + OTHER_CLASSES if sop_class in read)
    return [build_context(sop_class, list(TRANSFER_SYNTAXES)) for sop_class in classes]


def query_contexts() -> list[PresentationContext]:
    """Return what a peer that may query is offered: C-FIND, C-MOVE and C-GET (PS3.4 C.5.1)."""
    return [build_context(sop_class, list(EMITTED_SYNTAXES)) for sop_class in QUERY_CLASSES]


def retrieval_contexts(
    stored: list[PresentationContext], roles: Collection[str]
) -> list[PresentationContext]:
    """Return what may be stored here, and what we emit where the requestor proposes a role for it.

    A C-GET is answered on its own association, where the requestor is SCP of what it gets (PS3.4 C.5.3, PS3.7
    D.3.3.4). What is not in `stored` is given only: without a role, a context would mean that it is taken.

    Parameters
    ----------
    roles
        SOP classes for which the requestor proposes roles.
    """
    taken = {context.abstract_syntax for context in stored}
    for context in stored:
        if context.abstract_syntax in EMITTED_CLASSES:
            context.scu_role, context.scp_role = True, True
    given = [build_context(each, list(EMITTED_SYNTAXES)) for each in EMITTED_CLASSES if each in roles]
    given = [context for context in given if context.abstract_syntax not in taken]
    for context in given:
        context.scu_role, context.scp_role = False, True
    return [*stored, *given]
