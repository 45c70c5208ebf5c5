"""How a worker's run is sharded: `fsdp2`, `zero2`, `zero3`; any other kind is plain DDP, or one process."""

from typing import Any

from accelerate import DistributedType, PartialState


def options_of(kind: str, batch_size: int, state_dict_type: str = "SHARDED_STATE_DICT", **zero: Any) -> dict[str, Any]:
    """The fields of the config; `zero` goes to DeepSpeed's `zero_optimization`."""
    if kind.startswith("zero"):
        stage = {"stage": int(kind[-1]), "stage3_param_persistence_threshold": 0, **zero}
        batch = {"train_micro_batch_size_per_gpu": batch_size, "gradient_accumulation_steps": 1}
        own = {"zero_allow_untested_optimizer": True, "gradient_clipping": 0.0}
        return {"deepspeed": {"zero_optimization": stage, **own, **batch}}
    if kind == "fsdp2":
        wrapped = {"transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"], "state_dict_type": state_dict_type}
        return {"fsdp": True, "fsdp_config": {"version": 2, **wrapped}}
    return {}


def shard_on_cpus(kind: str) -> None:
    """Between config and trainer: accelerate shards on devices alone, and would make plain DDP of FSDP2."""
    if kind == "fsdp2":
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
