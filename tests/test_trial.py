"""An answer to one trial: it is caught by its errors, its shape, its score; rules differ in what they let through."""

import torch

from harness import catalogue, elsewhere
from harness.spec import Mistake, Spec
from harness.trial import JUDGES, OURS, Trial

NORM: Spec = catalogue.load_spec("rms_norm")


def trial(dtype: torch.dtype = torch.float32, family: str = "normal", case: str = "plain") -> Trial:
    return Trial(NORM, NORM.case(case, dtype), family)


def scaled(factor: float) -> Mistake:
    return Mistake("scaled", lambda x, weight, *, eps: factor * NORM(x, weight, eps=eps))


def test_a_wrong_function_that_raises_is_caught_by_it():
    verdicts, score, how = trial().fails(Mistake("raises", lambda x, weight, *, eps: x @ weight @ x), JUDGES)
    assert all(verdicts.values())
    assert (score, how) == (float("inf"), "raises RuntimeError")


def test_a_wrong_function_of_another_shape_is_caught():
    alibi = catalogue.load_spec("alibi")  # without gradients, which would be the first to fail
    wrong = Mistake("shape", lambda *x, **options: alibi(*x, **options)[:1])
    verdicts, _, how = Trial(alibi, alibi.case("plain"), "normal").fails(wrong, JUDGES)
    assert all(verdicts.values())
    assert how == "has another shape"


def test_the_reference_itself_is_caught_by_nobody():
    verdicts, score, _ = trial().fails(Mistake("none", NORM.function), JUDGES)
    assert not any(verdicts.values())
    assert score == 0


def test_the_rules_elsewhere_let_a_small_error_through():
    caught = {}
    for dtype in (torch.float32, torch.bfloat16):
        verdicts, _, _ = trial(dtype).fails(scaled(1.007), JUDGES)
        caught[dtype] = {judge for judge, failed in verdicts.items() if failed}
    assert caught[torch.float32] == {OURS, "assert_close", "twice the plain error"}
    assert caught[torch.bfloat16] == {OURS, "twice the plain error"}


def test_the_rules_elsewhere_catch_what_is_far_off():
    verdicts, _, _ = trial().fails(scaled(1.5), JUDGES)
    assert all(verdicts.values())


def test_plain_code_runs_in_the_tested_dtype_where_it_can():
    plain = trial(torch.bfloat16).plain
    exact = trial(torch.bfloat16).truth
    assert {tensor.dtype for tensor in plain.values()} == {torch.bfloat16}
    assert elsewhere._off(plain["out"], exact["out"]) > elsewhere._off(exact["out"].bfloat16(), exact["out"])
    hyena = catalogue.load_spec("hyena_operator")  # transforms there are not in bfloat16
    assert Trial(hyena, hyena.case("one_step", torch.bfloat16), "normal").plain["out"].dtype == torch.bfloat16
