"""What ends a completion follows the protocol, unless the configuration says it."""

from __future__ import annotations

import pytest

from actors.rollout import play_rules
from azero.config import Config, load_config, stops, unlikely
from azero.domains import get_domain
from azero.domains.base import stops_of
from azero.play import PlayRules
from azero.types import Role

CHAT = ["task.protocol=chat", "eval.protocol=chat"]


def rules(config: Config) -> PlayRules:
    return play_rules(config.rollout, config.task, config.reward.ladder)


@pytest.mark.parametrize("config", ["base", "local", "journal", "paper"])
def test_a_raw_completion_is_a_line_and_a_chat_completion_is_not(config: str) -> None:
    raw = load_config(config)
    assert rules(raw).solver.stop == rules(raw).proposer.stop == ("\n",)
    assert stops(raw.eval.stop, raw.eval.protocol) == ("\n",)
    chat = load_config(config, CHAT)
    assert rules(chat).solver.stop == rules(chat).proposer.stop == ()
    assert stops(chat.eval.stop, chat.eval.protocol) == () and unlikely(chat) == []
    mixed = load_config(config, ["task.protocol=chat"])  # each by its own
    assert rules(mixed).solver.stop == () and stops(mixed.eval.stop, mixed.eval.protocol) == ("\n",)


def test_a_domain_ends_raw_completions_where_the_configuration_does_not() -> None:
    for overrides, own in (([], True), (CHAT, False), (["rollout.stop=[x]"], False), (["eval.stop=[x]"], True)):
        assert rules(load_config("base", overrides)).domain_stops is own
    code, sorting = get_domain("code"), get_domain("sorting")
    (small, *_), solver = code.cells, Role.SOLVER
    assert stops_of(code, Role.PROPOSER, small) == ("\n\n",) and stops_of(code, solver, small) == ("\n",)
    assert stops_of(sorting, Role.PROPOSER, sorting.cells[0]) == stops_of(sorting, solver, sorting.cells[0]) == ("\n",)


def test_an_explicit_stop_is_kept_and_in_chat_a_line_break_is_told() -> None:
    raw = load_config("base", ["rollout.stop=[]", "eval.stop=['#']"])
    assert rules(raw).solver.stop == () and stops(raw.eval.stop, "raw") == ("#",) and unlikely(raw) == []
    chat = load_config("base", [*CHAT, 'rollout.stop=["\\n"]', "eval.stop=['###']"])
    assert rules(chat).solver.stop == ("\n",) and stops(chat.eval.stop, "chat") == ("###",)
    (told,) = unlikely(chat)
    assert told.startswith("rollout.stop holds a line break with task.protocol=chat") and "\n" not in told
