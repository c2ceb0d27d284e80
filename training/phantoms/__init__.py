"""A deterministic generator of whole-body PSMA + FDG PET/CT patients with organ labels and truth."""

from training.phantoms.folder import write_patient
from training.phantoms.patient import Phantom, PhantomScan, generate_patient
from training.phantoms.scanner import PhantomSize

__all__ = ["Phantom", "PhantomScan", "PhantomSize", "generate_patient", "write_patient"]
