"""The DICOM network: contexts, SCP and SCU."""
