"""What every worker needs, imported once by the process that workers are forked from: a run does not pay for imports."""

import sklearn.datasets
import torch._dynamo
import torch.utils.flop_counter

import npasbench.api
import npasbench.running.certify
import npasbench.running.worker
