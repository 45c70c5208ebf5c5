"""What teachers of their own cost: products, memory, and waiting for a GPU."""

import pytest
import torch

from tests.kernels.test_one_pass import products
from tests.testing.counting import PeakMemory
from tests.testing.fake_cuda import fake_cuda
from tests.testing.losses import FAST_BACKENDS, make_case
from trl_modality.kernels import LossSpec, Teacher, TeacherHead, TokenGroup, grouped_linear_loss, paired_linear_loss


def teacher_of(case, seed=3):
    """One of the student's size, with a head of its own."""
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (
        torch.randn(case[name].shape, generator=generator).to(case[name])
        for name in ("vision_hidden", "lm_head_weight")
    )
    return Teacher(hidden, TeacherHead(head))


@pytest.mark.parametrize("backend", FAST_BACKENDS)
@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_teacher_costs_one_product_and_its_anchor_none(backend, is_frozen):
    case = make_case(ignored=False)
    case["lm_head_weight"].requires_grad_(not is_frozen)
    units = 4 if is_frozen else 6
    who, other = teacher_of(case), teacher_of(case, seed=4)
    assert products(case, backend=backend, teacher=who) == units + 1
    assert products(case, backend=backend, teacher=who, anchor=who, anchor_weight=1.0) == units + 1
    assert products(case, backend=backend, teacher=who, anchor=other, anchor_weight=1.0) == units + 2
    assert products(case, backend=backend, teacher=who, teacher_top_k=3, anchor=who, anchor_weight=1.0) <= units + 2


def test_no_logits_of_a_teacher_are_kept():
    """Of 100 tokens and 4,000 entries the logits of one view are 1.6 MB; a tile of 0.3 MiB holds for all three."""
    case = make_case(m=100, h=8, v=4000)
    case["lm_head_weight"].requires_grad_(False)
    who = teacher_of(case)
    with PeakMemory() as memory:
        paired_linear_loss(**case, teacher=who, anchor=who, anchor_weight=1.0, backend="torch", tile_mib=0.3)
    assert memory.peak_mib < 0.8


@pytest.mark.parametrize("options", [{}, {"teacher_top_k": 4}, {"kl_mask": "confident"}, {"kl_clip": 0.1}])
def test_a_gpu_is_not_waited_for(options):
    case = make_case()
    with fake_cuda() as gpu:
        names = ("text_hidden", "vision_hidden", "lm_head_weight")
        text, vision, head = (tensor.detach().requires_grad_() for tensor in gpu.move([case[name] for name in names]))
        teacher = teacher_of(case)
        hidden, weight, labels = gpu.move([teacher.hidden, teacher.head.weight, case["labels"].clamp(min=0)])
        who = Teacher(hidden, TeacherHead(weight))
        group = TokenGroup(text, vision, labels, 1.0, 1.0, 1.0, 0.5, who, who)
        spec = LossSpec(**options)
        loss, _ = grouped_linear_loss([group], head, spec=spec, normalizer=7, backend="torch", checked=True)
        loss.backward()
        gpu.check_blocking({})
