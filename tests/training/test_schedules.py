"""Learning rates follow transformers' schedules, whose arguments are checked."""

from typing import Any

import pytest
import torch
import transformers
from test_engine import make_spec

from workflow import BadInput
from workflow.config.request import SCHEDULES
from workflow.training.optim import check_schedule, make_scheduler


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_named_is_transformers_own(name: str) -> None:
    extra = {
        "cosine_with_min_lr": {"min_lr": 1e-5},
        "cosine_warmup_with_min_lr": {"min_lr": 1e-5},
        "warmup_stable_decay": {"num_decay_steps": 5},
    }.get(name)
    warmup = None if name == "constant" else 2
    spec = make_spec(
        lr_scheduler_type=name, lr_scheduler_kwargs=extra, warmup_steps=warmup, learning_rate=1e-3
    )

    def rates(make: Any) -> list[float]:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        scheduler = make(optimizer)
        found = []
        for _ in range(10):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    reference = rates(
        lambda o: transformers.get_scheduler(
            name, o, num_warmup_steps=2, num_training_steps=10, scheduler_specific_kwargs=extra
        )
    )
    assert rates(lambda o: make_scheduler(o, spec)) == reference


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("warmup_stable_decay", None),  # lacks num_decay_steps
        ("polynomial", {"power": "2"}),  # fails only once the rate falls
        ("cosine", {"cycles": 2}),
    ],
)
def test_a_schedule_with_wrong_keys_is_refused_before_anything_is_loaded(
    name: str, kwargs: dict[str, Any] | None
) -> None:
    with pytest.raises(BadInput, match=f"arguments of the schedule {name} of transformers"):
        check_schedule(make_spec(lr_scheduler_type=name, lr_scheduler_kwargs=kwargs))
