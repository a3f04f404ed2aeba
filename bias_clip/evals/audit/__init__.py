from bias_clip.evals.audit.audit import Audit, Item, list_texts, run_audit, to_json
from bias_clip.evals.audit.model import AuditModel, functions_model, stage_model
from bias_clip.evals.audit.provenance import Provenance
from bias_clip.evals.audit.tables import table_model

__all__ = [
    "Audit",
    "AuditModel",
    "Item",
    "Provenance",
    "functions_model",
    "list_texts",
    "run_audit",
    "stage_model",
    "table_model",
    "to_json",
]
