"""The Ray actor that plays: it owns an engine, loads published weights, plays assignments, evaluates."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import ray
from ray.exceptions import GetTimeoutError, RayError

from actors.engines import build_engine
from actors.proof import SyncProof
from azero.config import Config, EvalConfig, Ladder, RolloutConfig, TaskConfig, stops, sync_tolerance
from azero.domains import get_domain
from azero.domains.base import Domain, evaluation_problems, executor_of
from azero.engine import Engine
from azero.errors import SyncError, VersionGone, VersionLate, first_line
from azero.evaluation.solver import encoded, evaluate
from azero.play import Player, PlayRules
from azero.policies import Policies
from azero.process import (
    deadline_stacks,
    keep_heap,
    keep_log_short,
    peak_memory_gib,
    redirect_output,
    trim_heap,
    use_threads,
)
from azero.types import (
    SHARED,
    Assignment,
    EvalItem,
    Evaluated,
    Played,
    Problem,
    Publication,
    Role,
    Sampling,
    SyncReport,
)

TRIM_EVERY_S = 60.0  # seldom: loading weights and playing then need most of it again, and new pages take time


def play_rules(rollout: RolloutConfig, task: TaskConfig, ladder: Ladder) -> PlayRules:
    """Return what a player needs of the configuration."""
    stop = stops(rollout.stop, task.protocol)
    return PlayRules(
        solutions=rollout.solutions_per_problem,
        proposer=Sampling(temperature=rollout.temperature, max_new_tokens=rollout.max_proposal_tokens, stop=stop),
        solver=Sampling(temperature=rollout.temperature, max_new_tokens=rollout.max_new_tokens, stop=stop),
        list_mark=task.list_mark,
        chat=task.protocol == "chat",
        exclude_evaluation=task.exclude_evaluation,
        other_tiers=task.other_tiers,
        ladder=ladder,
        barrier=rollout.max_staleness == 0,
        pilot=rollout.pilot,
        stopped_count=rollout.batch_of == "samples",
        domain_stops=rollout.stop is None and task.protocol == "raw",
    )


def evaluate_solver(
    engine: Engine,
    domain: Domain,
    config: EvalConfig,
    temperature: float,
    items: Sequence[EvalItem],
    judges: Executor,
    policy: str = SHARED,
) -> dict[str, Any]:
    """`evaluate` as the configuration has it. `temperature`: of the samples beside the greedy answers."""
    return evaluate(
        engine,
        domain,
        items,
        chat=config.protocol == "chat",
        samples=config.samples,
        temperature=temperature,
        max_new_tokens=config.max_new_tokens,
        stop=None if config.stop is None and config.protocol == "raw" else stops(config.stop, config.protocol),
        data=config.data,
        judges=judges,
        policy=policy,
    )


def sampling_seed(seed: int, version: int, work: str) -> int:
    """Return the seed of one piece of work under one weight version: equal in a resumed run, unlike any other's."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{version}/{work}".encode()).digest()[:6])


@ray.remote
class RolloutActor:
    """Plays whole episodes on weights that it has proven. It holds no state that a new actor could not get back."""

    def __init__(
        self,
        index: int,
        config: Config,
        policies: Policies,
        log: str,
        items: Sequence[EvalItem] = (),
        problems: Sequence[Problem] = (),
    ) -> None:
        """`items`: of the run's evaluation. `problems`: some that are known before the run, to see whether they fit."""
        redirect_output(log)
        use_threads(config.rollout.threads)
        keep_heap()
        self.log = log
        self.index, self.config, self.policies, self.items = index, config, policies, items
        self.roles = config.rollout.played_by(index)
        self.problems = problems
        self.domain = get_domain(config.task.domain, config.task.options)
        self.judges = executor_of(self.domain)
        self.proof = SyncProof(sync_tolerance(config.rollout, config.model.dtype))
        self._engine: Engine | None = None
        self._player: Player | None = None
        self._trimmed = time.monotonic()

    # Built on first use and not in __init__: what goes wrong here then reaches the driver as it is, and not as the
    # death of an actor.
    @property
    def engine(self) -> Engine:
        if self._engine is None:
            c = self.config
            self._engine = build_engine(c.model, c.rollout, c.run.seed, self.policies, self.roles)
        return self._engine

    @property
    def player(self) -> Player:
        if self._player is None:
            rules = play_rules(self.config.rollout, self.config.task, self.config.reward.ladder)
            evaluation = evaluation_problems(self.domain, self.items)
            policies, judges, roles = self.policies, self.judges, self.roles
            self._player = Player(self.engine, self.domain, rules, evaluation, policies, judges, roles)
        return self._player

    def __repr__(self) -> str:
        """Return the name that Ray's dashboard shows."""
        return f"RolloutActor {self.index}"

    def hello(self) -> str:
        """Answers as soon as the process is there."""
        return f"process {os.getpid()} on {socket.gethostname()}"

    def ready(self) -> None:
        """Returns when the engine is warm."""
        with deadline_stacks(self.config.cluster.start_timeout_s):
            self._require_room()
            self._rest()

    def _require_room(self) -> None:
        """Raises UserError where a prompt cannot be made, or is too long, of those that are known before the run."""
        c = self.config
        self.player.require_room(self.problems, c.task.source in ("selfplay", "solver_only"))
        chat = c.eval.protocol == "chat"
        solver, limit = self.policies.of(Role.SOLVER), c.eval.max_new_tokens
        encoded(self.engine, self.domain, self.items, chat=chat, max_new_tokens=limit, data=c.eval.data, policy=solver)

    def play(self, assignment: Assignment, publication: Publication) -> Played:
        """Load the publication where the engine holds another version, then play. Raises SyncError."""
        with self._awake():
            sync = self._sync(publication)
            began = time.monotonic()
            self.engine.reseed(sampling_seed(self.config.run.seed, publication.version.step, assignment.id))
            episodes = self.player.play(assignment)
            seconds = time.monotonic() - began
        return Played(
            assignment=assignment,
            episodes=episodes,
            sync=sync,
            seconds=seconds,
            memory_gib=peak_memory_gib(),
            counts=self.player.counts,
        )

    def evaluate(self, items: Sequence[EvalItem], publication: Publication) -> Evaluated:
        """Load the publication where the engine holds another version, then evaluate. Raises SyncError."""
        c = self.config
        with self._awake():
            sync = self._sync(publication)
            self.engine.reseed(sampling_seed(c.run.seed, publication.version.step, "evaluation"))
            solver, temperature = self.policies.of(Role.SOLVER), c.rollout.temperature
            result = evaluate_solver(self.engine, self.domain, c.eval, temperature, items, self.judges, solver)
        return Evaluated(result=result, sync=sync)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Give work its deadline and, with rollout.sleep, the engine its memory until the work is done."""
        with deadline_stacks(self.config.rollout.timeout_s):
            self.engine.wake()
            try:
                yield
            except (VersionGone, VersionLate):  # after which it goes on
                self._rest()
                raise
            self._rest()
        if time.monotonic() > self._trimmed + TRIM_EVERY_S:
            trim_heap()
            self._trimmed = time.monotonic()
        keep_log_short(self.log)

    def _rest(self) -> None:
        if self.config.rollout.sleep:
            self.engine.sleep()

    def _sync(self, publication: Publication) -> SyncReport | None:
        if self.engine.version == publication.version:
            return None
        own = self.policies.playing(self.roles).parts
        publication = replace(publication, parts={n: part for n, part in publication.parts.items() if n in own})
        load = self._received(publication) or self._fetched(publication)
        try:
            return self.proof.load_and_prove(self.engine, publication, load, lambda: self._get(publication.probes))
        except SyncError as e:
            raise SyncError(f"rollout actor {self.index}, weight version {publication.version.step}: {e}") from None

    def _fetched(self, publication: Publication) -> Callable[[str], None]:
        """How to load a part that now lies in this node's object store. Raises VersionGone and VersionLate."""
        from azero.models.weights import unflatten

        weights = {
            name: unflatten(self._get(part.ref)[name], part.layout, part.dtype)
            for name, part in publication.parts.items()
            if not self.proof.is_proven(publication, name)
        }
        return lambda name: self.engine.load(publication.version, weights[name], name)

    def _received(self, publication: Publication) -> Callable[[str], None] | None:
        """How to load what the learner then sends (actors/transfer.py); None where it sends nothing, or not this."""
        if publication.sender is None:
            return None
        from actors.transfer import SENDING, together_with

        sender, engine, limit = publication.sender, cast(Any, self.engine), self.config.rollout.timeout_s
        ((policy, part),) = publication.parts.items()  # one alone is sent

        def ask(method: str, *arguments: Any) -> Any:
            return getattr(sender, method).options(concurrency_group=SENDING).remote(self.index, *arguments)

        def load(_: str) -> None:
            with together_with(ask("send"), limit):
                engine.receive(publication.version, part.layout, part.dtype, policy)

        try:
            meeting = self._get(ask("prepare", ray.get_runtime_context().get_actor_id(), publication.version.step))
        except VersionGone:
            return None
        if meeting:
            with together_with(ask("open", *meeting, engine.workers), limit):
                engine.join(*meeting)
        return load

    def _get(self, ref: Any) -> Any:
        """Get what the learner published or does. Raises VersionGone and VersionLate."""
        patience = self.config.rollout.timeout_s / 2  # before this actor is late itself
        return fetched(ref, min(self.config.learner.timeout_s, patience))


def fetched(ref: Any, timeout_s: float) -> Any:
    """Get what the learner published or does.

    Raises VersionGone and VersionLate, so that nobody takes the learner's failure for the actor's.
    """
    try:
        return ray.get(ref, timeout=timeout_s)
    except GetTimeoutError:
        raise VersionLate(f"waited {timeout_s:g} s for a published version") from None
    except RayError as e:
        raise VersionGone(first_line(getattr(e, "cause", None) or e)) from None
