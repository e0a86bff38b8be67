"""The several processes of one run: process group, rendezvous, and the first process that starts and watches its peers.

Why not an existing launcher (each tried with two processes, of which one failed or was killed):

* torch 2.13, `torch.distributed.elastic.multiprocessing.start_processes`, on which torchrun stands. It noticed a
  failure within 0.2 s, but returned only after the others had ended: SIGTERM, then after 30 s SIGKILL, so 30.2 s with
  a process that does not react to SIGTERM. It starts each child in a session of its own: killing the process group of
  the run does not reach them, and when the process that started them was killed by SIGKILL they went on as orphans
  (a child would have to ask for a parent-death signal, as ours do). A MemoryError arrived as exit code 1; the decorator
  `record` adds the exception, in a file, but a kill for lack of memory looks like any other SIGKILL. With torchrun, an
  agent would stand between the launcher and the run's first process, and restart all of them by rules of its own.
* Ray 2.60, `ray.train.torch.TorchTrainer`. It noticed a failure within 1.1 to 1.3 s, and reported the exception or
  "the worker died". It needs a Ray cluster and four further packages (``ray[train]``: pyarrow, tensorboardX, pydantic,
  requests) also on one machine: on two cores, 31 to 61 s until a function that failed after one second was reported.
  Each call makes a folder of its own under ``~/ray_results``. The workers are children of the raylet, so they are not
  in the process group of the run, the first of them is not the run's own process, their output goes to Ray's logs, and
  they went on for 4 s after the process that had started them was killed.

What is used of torch: its TCPStore and its process groups. What this room adds: peers end with the run's own process
(PR_SET_PDEATHSIG), a peer that the kernel killed for memory is ``oom_host``, the first cause is the run's reason, and
each peer reports its own peaks of memory.
"""
