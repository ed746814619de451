"""Who plays with which weights: the words, the mapping, and what is refused."""

from pathlib import Path

import pytest

from azero.config import load_config, to_yaml
from azero.errors import UserError
from azero.policies import ONE_POLICY, policies_of
from azero.types import Role


def test_the_shapes_that_ship() -> None:
    shared, adapters, separate = (policies_of(load_config("local", [f"policies={w}"])) for w in SHAPES)
    assert shared.names == ONE_POLICY.names == ("shared",) and shared.of(Role.PROPOSER) == "shared"
    for policies in (adapters, separate):
        assert policies.names == ("proposer", "solver")
        assert [policies.of(role) for role in Role] == ["proposer", "solver"]
    assert list(adapters.nets) == ["base"] and {p.adapter.rank for p in adapters.all if p.adapter} == {16}
    assert list(separate.nets) == ["proposer", "solver"] and not any(p.adapter for p in separate.all)


SHAPES = ("shared", "adapters", "separate")
ROLES = ["policies=separate", "rollout.actors=4", "rollout.roles.proposer=1", "rollout.roles.solver=3"]


def test_actors_play_both_roles_or_one_alone() -> None:
    both, one = load_config("local", ["rollout.actors=3"]).rollout, load_config("local", ROLES).rollout
    assert [both.played_by(i) for i in range(3)] == [(Role.PROPOSER, Role.SOLVER)] * 3 and both.parts == 3
    assert [one.played_by(i) for i in range(4)] == [(Role.PROPOSER,)] + [(Role.SOLVER,)] * 3 and one.parts == 3
    more = load_config("local", [*ROLES, "rollout.roles.proposer=3", "rollout.roles.solver=1"]).rollout
    assert [role for i in range(4) for role in more.played_by(i)] == ["proposer", "solver", "proposer", "proposer"]
    assert more.parts == 3 and more.casts == one.casts == [(Role.PROPOSER,), (Role.SOLVER,)] and len(both.casts) == 1
    asleep = ["rollout.sleep=true", "rollout.gpus_per_actor=1", "rollout.max_staleness=0"]
    assert load_config("local", [*ROLES, *asleep]).rollout.sleep  # one engine a process


def test_policies_of_one_role_and_their_parts() -> None:
    adapters, separate = (policies_of(load_config("local", [f"policies={w}"])) for w in SHAPES[1:])
    assert separate.playing([Role.SOLVER]).names == ("solver",) and separate.playing(Role) == separate
    assert separate.playing([Role.SOLVER]).parts == {"solver"} and separate.parts == {"proposer", "solver"}
    assert adapters.parts == {"base", "proposer", "solver"} and ONE_POLICY.parts == {"shared"}
    assert ONE_POLICY.playing([Role.PROPOSER]) == ONE_POLICY


def test_a_policy_has_settings_of_its_own() -> None:
    given = ["policies=adapters", "policies.proposer.trains=false", "policies.solver.optim.lr=1e-3", "optim.lr=1e-5"]
    given += ["policies.solver.adapter.targets=[q_proj, v_proj]", "policies.solver.adapter.rank=4"]
    proposer, solver = policies_of(load_config("local", given)).all
    assert (proposer.trains, solver.trains) == (False, True)
    assert (proposer.optim.lr, solver.optim.lr) == (1e-5, 1e-3)
    assert solver.optim.warmup_steps == proposer.optim.warmup_steps == 20  # the run's
    assert solver.adapter is not None and (solver.adapter.rank, solver.adapter.targets) == (4, ["q_proj", "v_proj"])


def test_a_word_and_a_file_replace_and_a_key_changes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("defaults: [local]\npolicies:\n  asker: {roles: [proposer]}\n  answerer: {roles: [solver]}\n")
    (tmp_path / "local.yaml").write_text("policies: adapters\n")
    assert list(load_config(file).policies) == ["asker", "answerer"]
    assert list(load_config(file, ["policies=shared"]).policies) == ["shared"]
    assert not load_config(file, ["policies.asker.trains=false"]).policies["asker"].trains
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(load_config(file, ["policies.asker.optim.lr=1e-3"])))
    assert load_config(resolved) == load_config(file, ["policies.asker.optim.lr=1e-3"])


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["policies=both"], "policies=both: must be one of shared, adapters, separate"),
        (["policies=separate", "policies.solvr.trains=false"], "policies.solvr: plays no role"),
        (["policies=separate", "policies.proposer.roles=[solver]"], "nobody plays the proposer"),
        (["policies=separate", "policies.proposer.roles=[proposer,solver]"], "proposer and solver play the solver"),
        (["policies=separate", "policies.solver.roles=[judge]"], "must be 'proposer' or 'solver'"),
        (["policies=adapters", "policies.solver.adapter.rank=-1"], "must be 0 or more"),
        (["policies=adapters", "policies.solver.adapter.rank=1000"], "must be 512 or less"),
        (["policies=adapters", "policies.solver.adapter.alpha=0"], "policies.solver.adapter.alpha=0"),
        (["policies=adapters", "policies.solver.adapter.rnk=4"], "did you mean policies.*.adapter.rank"),
        (["policies=adapters", "policies.solver.model=/elsewhere"], "adapters share one base"),
        (["policies=shared", "policies.shared.trains=false"], "nothing would be learned"),
        (["policies=separate", "policies.solver.trains=false"], "reward.learnability=improvement"),
        (
            ["policies=separate", "policies.solver.trains=false", "task.source=solver_only"],
            "nothing would be learned; set its trains to true",
        ),
        (
            ["policies=separate", "rollout.sleep=true", "rollout.gpus_per_actor=1", "rollout.max_staleness=0"],
            "vLLM lets one engine a process sleep",
        ),
        ([*ROLES, "rollout.actors=3"], "rollout.actors=3: both must be positive and rollout.actors their sum"),
        (["policies=separate", "rollout.roles.solver=1"], "rollout.roles.proposer=0 and rollout.roles.solver=1"),
        ([*ROLES, "policies=shared"], "rollout.roles.proposer=1: is for policies of their own models"),
        ([*ROLES, "policies=adapters"], "use policies=separate, or leave rollout.roles at 0"),
        ([*ROLES, "task.source=random"], "task.source=random: nobody would be proposing"),
        ([*ROLES, "rollout.roles.proposer=-1"], "rollout.roles.proposer=-1: must be 0 or more"),
        (["policies=separate", "rollout.roles={proposer: 1}"], "mean rollout.roles.proposer or rollout.roles.solver?"),
        (["policies.base.roles=[solver]"], "other than base"),
        (["policies.a/b.roles=[solver]"], "letters, digits"),
        (
            ["policies=separate", "rollout.transfer=nccl", "rollout.gpus_per_actor=1", "learner.gpus_per_worker=1"],
            "sends the weights of one policy",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as raised:
        load_config("local", overrides)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_model_that_is_none_is_refused() -> None:
    config = load_config("local", ["policies=separate", "policies.solver.model=/no/such"])
    with pytest.raises(UserError, match="/no/such"):
        policies_of(config)
