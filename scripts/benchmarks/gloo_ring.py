"""One rank of PyTorch's gloo ring: the peer of `hearth-benchmark ring member`, driven by the same lines."""
import sys
import time

import torch
import torch.distributed as distributed

SPREAD = 0x9E3779B97F4A7C15


def main():
    rank, size, mebibytes = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    element, store = getattr(torch, sys.argv[4]), sys.argv[5]
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    count = (mebibytes << 20) // torch.tensor([], dtype=element).element_size()
    index = torch.arange(count, dtype=torch.int64)
    # As a signed number, as the multiplication of 64-bit tensors wants it; it wraps.
    spread = (index * (SPREAD - (1 << 64))).to(element)
    index = index.to(element)
    print(f"ready, torch {torch.__version__}", flush=True)
    while sys.stdin.readline() == "round\n":
        vector = spread + index * rank
        distributed.barrier()
        start, cpu = time.perf_counter(), time.process_time()
        distributed.all_reduce(vector)
        seconds = time.perf_counter() - start
        distributed.barrier()
        cpu = time.process_time() - cpu
        is_right = torch.equal(vector, spread * size + index * (size * (size - 1) // 2))
        print(seconds, cpu, "right" if is_right else "wrong", flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
