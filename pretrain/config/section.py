"""The base of all sections, and the mark of settings that may change when a run is resumed."""

from typing import Any

from pydantic import BaseModel, ConfigDict

FREE: dict[str, Any] = {"free_on_resume": True}


class Section(BaseModel):
    """Frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, populate_by_name=True
    )
