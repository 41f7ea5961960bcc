"""mbrl-lib's CEM on the weights of `planning.py`: a peer in a Python of its own, since its dependencies do not fit ours.

    python3.11 -m venv mbrl-env
    mbrl-env/bin/pip install "torch>=2.6,<2.14" "numpy<2" hydra-core==1.3.2 omegaconf==2.3.0 gymnasium termcolor tqdm
    mbrl-env/bin/pip install --no-deps mbrl==0.2.0
    python benchmarks/planning.py --problem P1 --mbrl-python mbrl-env/bin/python --json F

(mbrl 0.2.0 asks for omegaconf < 2.1, which hydra 1.3.2 does not go with; hence --no-deps.) By itself, with a file of weights:

    mbrl-env/bin/python benchmarks/peer_mbrl_lib.py --weights weights.npz --threads 1 --repeats 30

Everything that takes time is mbrl-lib's own: GaussianMLP (E members, SiLU, propagation `fixed_model`), OneDTransitionRewardModel with
its normaliser, ModelEnv.evaluate_action_sequences and CEMOptimizer. So that it does the work of the problem and no more, the E particles
of a candidate go to the E members, one each, instead of at random; the members' means are followed, without the noise that ModelEnv
draws; the faster of its two samplers is used (`clipped_normal`); and its normaliser works in single precision. `--shipped` leaves these
four as in the library's PETS examples.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from mbrl.env.termination_fns import no_termination
from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
from mbrl.planning import CEMOptimizer

ELITES, MOMENTUM = 0.1, 0.1


class MeanModelEnv(ModelEnv):
    """A ModelEnv that follows the members' means."""

    def step(self, actions: Any, model_state: Any, sample: bool = False) -> Any:
        """As ModelEnv's, whatever `sample` says."""
        return super().step(actions, model_state, sample=False)


class Peer:
    """A planner for one problem.

    Args:
        arrays: what `peers.save` wrote.
        device: where to plan.
        shipped: noise, sampler, normaliser and particles as in the library's PETS examples.
    """

    def __init__(self, arrays: dict[str, np.ndarray], device: str, shipped: bool) -> None:
        self.arrays, self.device = arrays, device
        candidates, self.horizon, iterations = (int(n) for n in arrays["sizes"])
        goal, state_cost, effort = (torch.as_tensor(arrays[name], device=device) for name in ("goal", "state_cost", "effort"))
        self.members, self.actions = len(arrays["weight0"]), len(effort)
        self.network = self._network()
        self.model = OneDTransitionRewardModel(self.network, target_is_delta=True, normalize=True, learned_rewards=False)
        self.model.input_normalizer.mean = torch.as_tensor(arrays["input_mean"], device=device)[None]
        self.model.input_normalizer.std = 1 / torch.as_tensor(arrays["input_inverse"], device=device)[None]

        def reward(action: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
            return -((state - goal).square() @ state_cost + action.square() @ effort)[:, None]

        self.env = self._env(MeanModelEnv, reward)
        self.checked = self.check()
        if shipped:
            self.env = self._env(ModelEnv, reward)
            del self.network.sample_propagation_indices
            normaliser = self.model.input_normalizer
            normaliser.mean, normaliser.std = normaliser.mean.double(), normaliser.std.double()
        bound = np.ones((self.horizon, self.actions))
        self.optimiser = CEMOptimizer(iterations, ELITES, candidates, -bound, bound, MOMENTUM, torch.device(device),
                                      return_mean_elites=True, clipped_normal=not shipped)
        self.nominal = torch.zeros(self.horizon, self.actions, device=device)

    def _env(self, kind: type[ModelEnv], reward: Any) -> ModelEnv:
        spaces = SimpleNamespace(observation_space=None, action_space=None)
        return kind(spaces, self.model, no_termination, reward, torch.Generator(device=self.device))

    def _network(self) -> GaussianMLP:
        count = sum(name.startswith("weight") for name in self.arrays)
        first, last = self.arrays["weight0"], self.arrays[f"weight{count - 1}"]
        network = GaussianMLP(first.shape[1], last.shape[2] // 2, self.device, num_layers=count - 1, ensemble_size=self.members,
                              hid_size=first.shape[2], propagation_method="fixed_model", activation_fn_cfg={"_target_": "torch.nn.SiLU"})
        layers = [block[0] for block in network.hidden_layers] + [network.mean_and_logvar]
        with torch.no_grad():
            for i, layer in enumerate(layers):
                layer.weight.copy_(torch.as_tensor(self.arrays[f"weight{i}"]))
                layer.bias.copy_(torch.as_tensor(self.arrays[f"bias{i}"]))
        network.sample_propagation_indices = self._one_particle_each
        network.eval()
        return network

    def _one_particle_each(self, batch: int, _rng: torch.Generator) -> torch.Tensor:
        """Particle e of every candidate to member e: row n E + e to place e N + n."""
        return torch.arange(batch, device=self.device).view(-1, self.members).T.flatten()

    def plan(self, start: np.ndarray) -> None:
        """One plan from a state [S], warm-started by the last, as TrajectoryOptimizer does it."""
        with torch.inference_mode():
            shifted = torch.cat([self.nominal[1:], torch.zeros_like(self.nominal[:1])])
            self.nominal = self.optimiser.optimize(lambda rows: self.env.evaluate_action_sequences(rows, start, self.members), x0=shifted)

    def check(self) -> dict[str, Any]:
        """What is compared: next states [E, N, S] and costs [N] of the file's rows, by the members' means."""
        state = self.arrays["check_state"]
        actions = torch.as_tensor(self.arrays["check_actions"], device=self.device)
        rows = self.env.reset(np.tile(state, (len(actions) * self.members, 1)), return_as_np=False)
        following = self.env.step(actions[:, 0].repeat_interleave(self.members, 0), rows)[0]
        returns = -self.env.evaluate_action_sequences(actions, state, self.members)
        members_first = following.view(len(actions), self.members, -1).transpose(0, 1)
        return {"step": members_first.tolist(), "returns": returns.tolist()}

    def time_ms(self, i: int) -> float:
        """Milliseconds of plan i."""
        start = self.arrays["starts"][i % len(self.arrays["starts"])]
        self._wait()
        begin = time.perf_counter()
        self.plan(start)
        self._wait()
        return 1e3 * (time.perf_counter() - begin)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    """Answer each number on standard input with the time of that plan, or time `--repeats` plans."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="npz file that benchmarks/planning.py wrote")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shipped", action="store_true", help="as the library's PETS examples have it")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--serve", action="store_true", help="wait for the numbers of plans on standard input")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    with np.load(args.weights, allow_pickle=False) as file:
        peer = Peer(dict(file), args.device, args.shipped)
    for i in range(3):
        peer.plan(peer.arrays["starts"][i])
    gc.collect()
    gc.disable()
    if args.serve:
        print(json.dumps(peer.checked), flush=True)
        for line in sys.stdin:
            print(json.dumps({"ms": peer.time_ms(int(line))}), flush=True)
        return
    times = [peer.time_ms(i) for i in range(args.repeats)]
    print(json.dumps({"mbrl_lib_ms": float(np.median(times)), "mbrl_lib_p99_ms": float(np.percentile(times, 99)), "repeats": len(times),
                      "shipped": args.shipped, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
