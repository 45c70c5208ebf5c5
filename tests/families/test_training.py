"""A run of every family that shares its prefix, with the options as they come: it trains, evaluates and saves."""

import pytest
from datasets import Dataset

from tests.families.measured import build_family, rows_of
from tests.families.models import sharing
from tests.modeling.test_sharing import FEATURES


@pytest.mark.slow
@pytest.mark.parametrize("name", sharing())
def test_a_run(config, make_trainer, tmp_path, name):
    """In float32: the processor of Llama 4 makes bfloat16, and its config asks for a load-balancing loss."""
    model, processor = build_family(name)
    rows = Dataset.from_list(rows_of(name), features=FEATURES)
    args = config(per_device_train_batch_size=3, per_device_eval_batch_size=3)
    given = {"model": model.float(), "processing_class": processor, "eval_dataset": rows}
    trainer = make_trainer(args, rows, **given)
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[0] > losses[-1] > trainer.evaluate()["eval_loss"]
    assert trainer._shares_prefix
    trainer.save_model(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()
