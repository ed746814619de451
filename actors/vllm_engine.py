"""vLLM as an engine: in this process, token ids in and out, log-probs of the softmax that was sampled from."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

import torch

from actors.base import ModelEngine, score_length
from actors.transfer import announced, joining
from actors.vllm_readback import Placement, held_weights, unprovable
from actors.vllm_start import reason, room_for_adapters, start
from azero.config import AdapterConfig
from azero.engine import of_each
from azero.errors import SyncError, UserError, listed
from azero.types import SHARED, Completion, HeldWeights, Sampling, TensorSpec, WeightVersion

COLDEST, HOTTEST = 0.01, 2.0  # vLLM raises a lower temperature to the first, and refuses one over the second


@dataclass(frozen=True, slots=True)
class _Request:
    tag: Hashable
    policy: str
    copies: int  # of each completion


class VllmEngine(ModelEngine):
    """One vLLM engine. Requests in flight share its continuous batch; samples depend on the order of submission.

    Unseeded requests draw from one generator, so the same calls after the same `reseed` give the same samples.
    """

    def __init__(
        self,
        path: str,
        dtype: Literal["float32", "bfloat16"],
        *,
        max_model_len: int,
        max_num_seqs: int,
        kv_cache_gib: float,
        gpu_memory_utilization: float,
        tensor_parallel: int = 1,
        sleep: bool = False,
        transfer: str = "",
        net: str = SHARED,
        adapters: Mapping[str, AdapterConfig] | None = None,
        seed: int = 0,
    ) -> None:
        """`kv_cache_gib` counts on CPU, `gpu_memory_utilization` on GPU. `transfer`: vLLM's backend for `receive`.

        Raises UserError where vLLM refuses them.
        """
        super().__init__(path, max_model_len, net, adapters)
        self.max_model_len, self.workers = max_model_len, tensor_parallel
        self.dtype: torch.dtype = getattr(torch, dtype)
        self._placements: dict[str, list[dict[str, Placement]]] = {}  # by policy and worker, from the first load on
        self._numbers = {name: i for i, name in enumerate((net, *self.adapters))}  # vLLM's, of adapters; 0 of the model
        self._named: dict[str, Any] = {}  # the LoRARequest of each adapter's present weights
        self._in_flight: dict[str, _Request] = {}  # by vLLM's id
        self._submitted = 0
        set_num_threads = torch.set_num_threads
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                self._llm = start(
                    path,
                    kv_cache_gib,
                    dtype=dtype,
                    seed=seed % 2**32,
                    max_model_len=max_model_len,
                    max_num_seqs=max_num_seqs,
                    gpu_memory_utilization=gpu_memory_utilization,
                    tensor_parallel_size=tensor_parallel,
                    distributed_executor_backend="mp" if tensor_parallel > 1 else None,
                    enable_sleep_mode=sleep,
                    weight_transfer_config={"backend": transfer} if transfer else None,
                    **room_for_adapters(self.adapters, chain.from_iterable(self.expected[n] for n in self.adapters)),
                )
        except UserError:
            raise
        except Exception as e:  # of its start, whatever vLLM and its parts raise
            memory = f"kv_cache_gib={kv_cache_gib:g} (CPU), gpu_memory_utilization={gpu_memory_utilization:g} (GPU)"
            raise UserError(
                f"rollout.engine=vllm: vLLM refuses model.path={path} with rollout.{memory}, "
                f"max_model_len={max_model_len}, max_num_seqs={max_num_seqs}: {reason(e)}; "
                "change these, or use rollout.engine=hf"
            ) from None
        finally:
            torch.set_num_threads = set_num_threads  # vLLM's worker on CPU puts a no-op in its place
        for name in self.adapters:
            nothing = {key: torch.zeros(shape, dtype=self.dtype) for key, shape in self.expected[name].items()}
            self._replace_adapter(name, nothing, "none")

    def submit(
        self, tag: Hashable, prompt_ids: Sequence[int], n: int, sampling: Sampling, policy: str = SHARED
    ) -> None:
        """Raises UserError where prompt and completion do not fit `max_model_len`, or vLLM has no such temperature."""
        from vllm import SamplingParams

        self.require_room(prompt_ids, sampling)
        if sampling.temperature != 0 and not COLDEST <= sampling.temperature <= HOTTEST:
            raise UserError(
                f"temperature {sampling.temperature:g}: vLLM allows 0 (greedy), or {COLDEST:g} to {HOTTEST:g}; "
                "rollout.engine=hf allows any"
            )
        greedy = sampling.temperature == 0  # vLLM then refuses n > 1, as all would be the same
        params = SamplingParams(
            n=1 if greedy else n,
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            stop=list(sampling.stop),
            stop_token_ids=list(self.eos_ids),
            ignore_eos=True,  # `stop_token_ids` has them all
            logprobs=0,  # only the sampled token's
            flat_logprobs=True,
            output_kind=_final_only(),
        )
        self._add(tag, prompt_ids, params, policy, copies=n if greedy else 1)

    def step(self) -> list[tuple[Hashable, tuple[Completion, ...]]]:
        ended = []
        for request, output in self._finished():
            prompt_ids = tuple(output.prompt_token_ids)
            made = tuple(self._completion(request.policy, prompt_ids, sample) for sample in output.outputs)
            ended.append((request.tag, made * request.copies))
        return ended

    def busy(self) -> bool:
        return bool(self._in_flight)

    def score(self, sequences: Sequence[Sequence[int]], policy: str | Sequence[str] = SHARED) -> list[list[float]]:
        """Score as the protocol says. No prefix cache is read: a stale one would not show here."""
        from vllm import SamplingParams

        self.idle_for("score")
        longest = score_length(sequences)
        if longest >= self.max_model_len:
            raise UserError(
                f"rollout.max_model_len={self.max_model_len}: too short to score {longest} tokens in a row; raise it"
            )
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,  # draws nothing from the generator; log-probs of a prompt are at temperature 1 always
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=_final_only(),
        )
        for i, (sequence, name) in enumerate(of_each(sequences, policy)):
            self._add(i, sequence, params, name)
        found: dict[Hashable, list[float]] = {}
        while self.busy():
            found.update((r.tag, list(output.prompt_logprobs.logprobs)) for r, output in self._finished())
        return [found[i] for i in range(len(sequences))]

    def _replace(self, version: WeightVersion, tensors: Mapping[str, torch.Tensor], policy: str) -> None:
        self._learn_placements(policy)
        if policy in self.adapters:
            self._replace_adapter(policy, tensors, f"{version.lineage}.{version.step}")
        else:
            self.forget()  # vLLM drops its adapters with their base
            self._llm.collective_rpc("replace_weights", args=(list(tensors.items()),))
        self._reset_prefix_cache()

    def held(self, policy: str = SHARED) -> HeldWeights:
        readings = self._llm.collective_rpc("read_weights", args=(self._numbers[policy],))
        return held_weights(self._placements[policy], readings, self.expected[policy])

    def _learn_placements(self, policy: str) -> None:
        """Raises SyncError where vLLM holds a tensor in a form that cannot be read."""
        if policy in self._placements:
            return
        expected = self.expected[policy]
        found = self._llm.collective_rpc("learn_placements", args=(expected, self.dtype, self._numbers[policy]))
        if names := unprovable(found, expected):
            raise SyncError(
                f"rollout.engine=vllm: vLLM holds {len(names)} of {len(expected)} tensors of {self.path} in no "
                f"form that can be read back ({listed(names)}), so no load is proven; use rollout.engine=hf"
            )
        self._placements[policy] = found

    def _replace_adapter(self, policy: str, tensors: Mapping[str, torch.Tensor], version: str) -> None:
        from vllm.lora.request import LoRARequest

        number = self._numbers[policy]
        self._llm.collective_rpc("replace_weights", args=(list(tensors.items()), number))
        # The path is never read, as the worker has the adapter already; it tells prefixes of versions apart.
        self._named[policy] = LoRARequest(policy, number, f"{policy}@{version}")

    def join(self, host: str, port: int) -> None:
        """Meet the learner, whose `Sender.open` waits there, for `receive`."""
        self.idle_for("join")
        self._llm.collective_rpc("shutdown_weight_transfer_engine")  # of a learner that was lost
        self._llm.collective_rpc("init_weight_transfer_engine", args=(joining(host, port, self.workers),))

    def receive(self, version: WeightVersion, manifest: Sequence[TensorSpec], dtype: str, policy: str = SHARED) -> None:
        """`load` of what `Sender.send` sends meanwhile. Raises SyncError where names or shapes do not fit."""
        self.idle_for("receive")
        self.versions[policy] = None
        self.check_shapes({s.name: s.shape for s in manifest}, policy)
        self._learn_placements(policy)
        self._llm.collective_rpc("start_weight_update")
        self._llm.collective_rpc("update_weights", args=(announced(manifest, dtype),))
        self._llm.collective_rpc("finish_weight_update")
        self._llm.collective_rpc("refresh_head")
        self._reset_prefix_cache()
        self.versions[policy] = version

    def reseed(self, seed: int) -> None:
        """The prefix cache goes too: a hit rounds differently from a miss, and what came before must leave no trace."""
        self.idle_for("reseed")
        self._llm.collective_rpc("reseed_sampling", args=(seed,))
        self._reset_prefix_cache()

    def sleep(self) -> None:
        """Weights go to the host's memory, and the cache of keys and values away."""
        self.idle_for("sleep")
        self._llm.sleep(level=1)

    def wake(self) -> None:
        if self._llm.is_sleeping():
            self._llm.wake_up()

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.engine_core.shutdown()
        cleanup_dist_env_and_memory()

    def _add(self, tag: Hashable, prompt_ids: Sequence[int], params: Any, policy: str, copies: int = 1) -> None:
        key = str(self._submitted)
        self.step_of(policy)  # raises KeyError for one that is not served here
        prompt = {"prompt_token_ids": list(prompt_ids)}
        self._llm.add_request(key, prompt, params, lora_request=self._named.get(policy))
        states = self._llm.output_processor.request_states
        for state in islice(reversed(states.values()), params.n):
            state.logprobs_processor.tokenizer = None  # or it looks up, token by token, texts that nobody reads
        self._submitted += 1
        self._in_flight[key] = _Request(tag, policy, copies)

    def _finished(self) -> list[tuple[_Request, Any]]:
        """One step of vLLM: the requests that ended in it with their output, in the order of submission."""
        outputs = [o for o in self._llm.step() if o.finished]
        return [(self._in_flight.pop(o.request_id), o) for o in sorted(outputs, key=lambda o: int(o.request_id))]

    def _completion(self, policy: str, prompt_ids: tuple[int, ...], output: Any) -> Completion:
        if output.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM ended a request with finish_reason={output.finish_reason}")
        return Completion(
            prompt_ids=prompt_ids,
            token_ids=tuple(output.token_ids),
            logprobs=tuple(output.logprobs.logprobs),
            text=output.text,
            policy=policy,
            version=self.step_of(policy),
            finish_reason=output.finish_reason,
        )

    def _reset_prefix_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not drop its prefix cache: some request still holds blocks of it")


def _final_only() -> Any:
    """One output a request, when all of its samples are done."""
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.FINAL_ONLY
