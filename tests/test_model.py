"""Two endpoints, and whatever hypothesis has them and the network do.

PYSOCK_MODEL_EXAMPLES is how many examples there are to be, of all models together; without
it there are few in a usual run of the tests, and many among those that take minutes.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from conftest import ipv6, linux
from model import Ends
from model_crowd import Crowd
from model_server import Served
from pysock import LengthField

KINDS = ["tcp4", pytest.param("tcp6", marks=ipv6), "unix", "tls", "tls12"]
MODELS = [Ends, Served]
CROWDS = ["unix", "tcp4"]
RUNS = len(KINDS) * len(MODELS) + len(CROWDS)
FEW, MANY = 180, 3600  # examples in all

# Not by SIGALRM, which the models use; and long enough to find the smallest failing example.
pytestmark = [linux, pytest.mark.timeout(900, method="thread")]


def run(model: type[Ends] | type[Crowd], kind: str, usual: int) -> None:
    """Run the part of the examples that falls to one model over one kind of transport."""
    examples = int(os.environ.get("PYSOCK_MODEL_EXAMPLES", usual))
    run_state_machine_as_test(
        lambda: model(kind),
        settings=settings(
            max_examples=max(1, examples // (RUNS)),
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            phases=set(Phase) - {Phase.explain},
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.case("Z05")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_delivered_is_what_was_sent(kind: str, model: type[Ends]) -> None:
    run(model, kind, FEW)


@pytest.mark.parametrize("kind", ["tls", "tls12"])
def test_reset_behind_the_goodbye_of_tls_takes_nothing_away(kind: str) -> None:
    """As of an end that closes at once, and has not read what had come."""
    model = Ends(kind)
    model.connect(framing=LengthField(), calm=0, hasty=False)
    model.request(name="a", seconds=0, size=0)
    model.nothing_else_is_on_the_wire()
    model.be_interrupted_receiving(name="b", how="recv", count=1)
    model.close(name="b", gently=False)
    model.teardown()


@pytest.mark.slow
@pytest.mark.case("Z05")
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_delivered_is_what_was_sent_often(kind: str, model: type[Ends]) -> None:
    run(model, kind, MANY)


@pytest.mark.parametrize("kind", CROWDS)
def test_each_of_several_clients_is_answered(kind: str) -> None:
    run(Crowd, kind, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("kind", CROWDS)
def test_each_of_several_clients_is_answered_often(kind: str) -> None:
    run(Crowd, kind, MANY)
