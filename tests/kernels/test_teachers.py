"""Teachers of their own, anchors, masks, clips, top tokens and sampled divergences, against float64 by hand."""

import math

import pytest
import torch

from trl_modality.kernels import Teacher, TeacherHead, TopTokens, paired_linear_loss


TOKENS, V, NEW = 9, 13, -100
DIVERGENCES = ["forward_kl", "reverse_kl", "jsd", "sampled_k3", "sampled_reverse_kl"]
FULL = DIVERGENCES[:3]
BETA = 0.3


def make(dtype=torch.float64, width=5, teacher_width=3, teacher_vocab=V, seed=0):
    """Hidden states, heads and labels; the first label is ignored."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    labels = torch.randint(0, min(V, teacher_vocab), (TOKENS,), generator=generator)
    labels[0] = NEW
    return {
        "text": normal(TOKENS, width).requires_grad_(),
        "vision": normal(TOKENS, width).requires_grad_(),
        "head": normal(V, width, scale=1.5).requires_grad_(),
        "labels": labels,
        "teacher": Teacher(
            normal(TOKENS, teacher_width),
            TeacherHead(
                normal(teacher_vocab, teacher_width, scale=2.0),
                normal(teacher_vocab),
                logit_scale=0.7,
                logit_softcap=4.0,
            ),
        ),
        "other": Teacher(normal(TOKENS, 4), TeacherHead(normal(V, 4))),
        "sampled": torch.rand(TOKENS, generator=generator, dtype=torch.float64).mul(3).to(dtype),
    }


def distribution(teacher, t, tau):
    """`[V]` probabilities of one token by a teacher, written out."""
    hidden, (weight, bias, scale, softcap) = teacher
    logits = weight.double() @ hidden[t].double() + (0 if bias is None else bias.double())
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = torch.cat([logits, torch.full((max(0, V - len(logits)),), -math.inf, dtype=torch.float64)])[:V]
    weights = ((logits - logits.max()) / tau).exp()
    return weights / weights.sum()


def entry(p, q, divergence):
    """What one entry or class adds to a divergence."""
    if divergence == "forward_kl":
        return p * (p / q).log() if p > 0 else 0.0 * q
    if divergence == "reverse_kl":
        return q * (q / p).log()
    m = BETA * p + (1 - BETA) * q
    return (BETA * p * (p / m).log() if p > 0 else 0.0 * q) + (1 - BETA) * q * (q / m).log()


def divergence_by_hand(p, q, label, options):
    divergence, clip, k = options["divergence"], options.get("kl_clip"), options.get("teacher_top_k")
    if divergence == "sampled_k3":
        d = (p[label].log() - q[label].log()).clamp(-20, 20)
        return (d.exp() - d - 1).clamp(-10, 10)
    if divergence == "sampled_reverse_kl":  # the value of one, the gradient of the other
        ratio = q[label].log() - p[label].log()
        return ratio.detach() * (1 + q[label].log() - q[label].log().detach())
    if k is not None:
        top = sorted(range(V), key=lambda j: -p[j].item())[:k]
        others = [j for j in range(V) if j not in top]
        pairs = [(p[j], q[j]) for j in top] + ([(p[others].sum(), q[others].sum())] if others else [])
    else:
        pairs = [(p[j], q[j]) for j in range(V)]
    parts = [entry(*pair, divergence) for pair in pairs]
    return sum(part if clip is None or part <= clip else torch.tensor(clip, dtype=torch.float64) for part in parts)


def by_hand(data, *, weights, options, teacher=None, anchor=None, blind=None, sampled=None):
    """The loss of every token and every entry written out: no code shared with the implementation."""
    tau, total, count = options.get("temperature", 1.0), 0.0, 0
    head = data["head"]
    for t, label in enumerate(data["labels"].tolist()):
        if label == NEW:
            continue
        count += 2
        z_r, z_v = head @ data["text"][t], head @ data["vision"][t]
        nll_r, nll_v = -z_r.softmax(0)[label].log(), -z_v.softmax(0)[label].log()
        total = total + weights[0] * nll_r + weights[1] * nll_v
        p1 = z_r.softmax(0).detach() if teacher is None else distribution(teacher, t, 1.0)
        p = (z_r / tau).softmax(0).detach() if teacher is None else distribution(teacher, t, tau)
        share = 1.0
        if options.get("kl_mask") == "teacher_correct":
            share = float(p1.argmax() == label)
        elif options.get("kl_mask") == "confident":
            share = float(p1.max() >= options["confidence"])
        elif options.get("kl_mask") == "visual_advantage":
            p_blind = (-nll_v).exp().item() if blind is None else math.exp(-blind[t])
            share = max(0.0, 1 - p_blind / p1[label].item())
        if sampled is not None and sampled[t] != -1:
            share *= min(math.exp(sampled[t] - nll_v.item()), options["importance_clip"])
        total = total + weights[2] * share * divergence_by_hand(p, (z_v / tau).softmax(0), label, options)
        if anchor is not None:
            p = distribution(anchor, t, tau)
            total = total + weights[3] * divergence_by_hand(p, (z_r / tau).softmax(0), label, options)
    return total / count


def check(data, *, weights=(0.7, 1.3, 2.0, 1.1), options, backend, dtype=torch.float64, **given):
    leaves = [data["text"], data["vision"], data["head"]]
    truth = by_hand(data, weights=weights, options=options, **given)
    truth_grads = torch.autograd.grad(truth, leaves)
    arguments = {"text_weight": weights[0], "vision_weight": weights[1], "kl_weight": weights[2], "beta": BETA}
    names = {"blind": "blind_nll", "sampled": "sampled_nll"}
    arguments |= options | {names.get(name, name): value for name, value in given.items()}
    if "anchor" in given:
        arguments["anchor_weight"] = weights[3]
    output = paired_linear_loss(*leaves, data["labels"], **arguments, backend=backend)
    torch.testing.assert_close(output.loss, truth, rtol=1e-11, atol=1e-12)
    for own, expected in zip(torch.autograd.grad(output.loss, leaves), truth_grads, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-11)
    return output


both = pytest.mark.parametrize("backend", ["reference", "torch"])


@both
@pytest.mark.parametrize("tau", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_teacher_and_an_anchor(divergence, tau, backend):
    data, options = make(), {"divergence": divergence, "temperature": tau}
    alone = check(data, options=options, backend=backend, teacher=data["teacher"])
    assert alone.anchor_kl is None
    assert alone.teacher_nll[0] == 0
    assert (alone.teacher_nll[1:] > 0).all()
    check(data, options=options, backend=backend, teacher=data["teacher"], anchor=data["teacher"])
    check(data, options=options, backend=backend, teacher=data["other"], anchor=data["teacher"])
    check(data, options=options, backend=backend, anchor=data["teacher"])  # and the live text_rich view teaches
    check(data, options=options, backend=backend)


@both
@pytest.mark.parametrize("k", [1, 4, V])
@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("divergence", FULL)
def test_top_tokens_and_clips(divergence, clip, k, backend):
    data = make()
    for tau in (1.0, 2.0):
        options = {"divergence": divergence, "temperature": tau, "kl_clip": clip}
        check(data, options=options, backend=backend, teacher=data["teacher"], anchor=data["other"])
        options["teacher_top_k"] = k
        if k < V or divergence != "reverse_kl":
            check(data, options=options, backend=backend, teacher=data["teacher"], anchor=data["teacher"])
            check(data, options=options, backend=backend)


@both
@pytest.mark.parametrize(
    "mask",
    [{"kl_mask": "teacher_correct"}, {"kl_mask": "confident", "confidence": 0.7}, {"kl_mask": "visual_advantage"}, {}],
    ids=lambda mask: mask.get("kl_mask", "all"),
)
@pytest.mark.parametrize("divergence", ["forward_kl", "sampled_k3"])
def test_masks_and_importance_weights(divergence, mask, backend):
    data, options = make(seed=1), {"divergence": divergence, **mask}
    sampled = data["sampled"].clone()
    sampled[::3] = -1
    weighed = {**options, "importance_clip": 1.5}
    blind = {"blind": data["sampled"]} if mask.get("kl_mask") == "visual_advantage" else {}
    live = check(data, options=options, backend=backend)
    assert (live.kl_share is None) == (not mask)
    if mask:
        assert live.kl_share[0] == 0
        assert len(live.kl_share[1:].unique()) > 1
    check(data, options=options, backend=backend, teacher=data["teacher"], anchor=data["other"], **blind)
    check(data, options=weighed, backend=backend, sampled=sampled)
    check(data, options=weighed, backend=backend, teacher=data["teacher"], sampled=sampled, **blind)


def top_of(teacher, k, labels):
    """What a server says of the teacher's likeliest tokens."""
    p = torch.stack([distribution(teacher, t, 1.0) for t in range(TOKENS)])
    top = p.topk(k)
    return TopTokens(top.indices, top.values.log(), p.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1).log())


@both
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_top_tokens_of_a_server_are_those_of_the_teacher(divergence, backend):
    data = make()
    leaves, top = [data["text"], data["vision"], data["head"]], top_of(data["teacher"], 4, data["labels"])
    if divergence.startswith("sampled"):
        options = {"divergence": divergence}
    else:
        options = {"divergence": divergence, "teacher_top_k": 4, "kl_clip": 0.2}
    for mask in ({}, {"kl_mask": "teacher_correct"}, {"kl_mask": "confident", "confidence": 0.4}):
        both_ways = []
        for who in (data["teacher"], top):
            if isinstance(who, TopTokens):
                options.pop("teacher_top_k", None)
            elif not divergence.startswith("sampled"):
                options["teacher_top_k"] = 4
            output = paired_linear_loss(
                *leaves, data["labels"], **options, **mask, teacher=who, anchor=who, anchor_weight=0.5, backend=backend
            )
            both_ways.append((output.loss, *torch.autograd.grad(output.loss, leaves)))
            if isinstance(who, TopTokens):
                assert (output.teacher_nll[1:] > 0).all()
        for own, expected in zip(*both_ways, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-11)


@both
def test_a_single_view_learns_from_a_teacher(backend):
    """Replay that is held to the base: rows of one view, of any kind."""
    data = make()
    for divergence in DIVERGENCES:
        both_ways = []
        for text, text_weight in ((None, 1.0), (data["text"], 0.0)):
            output = paired_linear_loss(
                text,
                data["vision"],
                data["head"],
                data["labels"],
                text_weight=text_weight,
                divergence=divergence,
                teacher=data["teacher"],
                normalizer=7,
                backend=backend,
            )
            both_ways.append((output.loss, *torch.autograd.grad(output.loss, [data["vision"], data["head"]])))
        for own, expected in zip(*both_ways, strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-14)


@both
def test_a_teacher_with_the_students_head_may_have_another_bias(backend):
    data = make()
    weight, bias = data["head"].detach(), torch.linspace(-3, 3, V, dtype=torch.float64)
    data["head"] = weight  # frozen, the very same tensor
    leaves = [data["text"], data["vision"]]
    found = []
    for head in (TeacherHead(weight, bias), TeacherHead(weight.clone(), bias)):
        output = paired_linear_loss(
            *leaves, weight, data["labels"], teacher=Teacher(data["text"].detach(), head), backend=backend
        )
        found.append((output.loss, *torch.autograd.grad(output.loss, leaves)))
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-14)


@both
@pytest.mark.parametrize("teacher_vocab", [V - 3, V + 4])
def test_a_teacher_of_other_tokens(teacher_vocab, backend):
    data = make(teacher_vocab=teacher_vocab)
    head = data["teacher"].head._replace(logit_softcap=None)
    teacher = data["teacher"]._replace(head=head)
    for divergence in ("forward_kl", "jsd"):
        check(data, options={"divergence": divergence}, backend=backend, teacher=teacher)
        check(data, options={"divergence": divergence, "kl_clip": 0.1}, backend=backend, teacher=teacher)
    if teacher_vocab < V:
        with pytest.raises(ValueError, match="Take a teacher with the student's tokens"):
            check(data, options={"divergence": "jsd"}, backend=backend, teacher=data["teacher"])
        with pytest.raises(ValueError, match="a reverse KL to tokens that the teacher cannot say"):
            check(data, options={"divergence": "reverse_kl"}, backend=backend, teacher=teacher)


def test_k3_is_chi_square_minus_kl_in_the_mean():
    """Of labels that p has said; by simulation, within three standard errors."""
    generator = torch.Generator().manual_seed(0)
    z_p, z_q = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    p, q = z_p.softmax(0), z_q.softmax(0)
    n = 200_000
    labels = torch.multinomial(p, n, replacement=True, generator=generator)
    output = paired_linear_loss(
        z_p.expand(n, -1),
        z_q.expand(n, -1),
        torch.eye(8, dtype=torch.float64),
        labels,
        divergence="sampled_k3",
        backend="torch",
    )
    expected = (p * p / q).sum() - 1 - (p * (p / q).log()).sum()
    error = output.kl.std() / math.sqrt(n)
    assert (output.kl.mean() - expected).abs() < 3 * error < 0.1 * expected


def test_sampled_reverse_kl_is_the_reverse_kl_in_the_mean():
    generator = torch.Generator().manual_seed(0)
    z_p, z_q = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    q, n = z_q.softmax(0), 200_000
    labels = torch.multinomial(q, n, replacement=True, generator=generator)
    found = []
    for divergence, count in (("sampled_reverse_kl", n), ("reverse_kl", 1)):
        student = z_q.clone().requires_grad_()
        output = paired_linear_loss(
            z_p.expand(count, -1),
            student.expand(count, -1),
            torch.eye(8, dtype=torch.float64),
            labels[:count],
            text_weight=0.0,
            vision_weight=0.0,
            divergence=divergence,
            normalizer=count,
            backend="torch",
        )
        found.append((output.kl.mean(), torch.autograd.grad(output.loss, student)[0]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0.01, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0.01)
