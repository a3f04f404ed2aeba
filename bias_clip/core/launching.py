"""What a run and whatever launches it agree on."""

RUN_AGAIN = 75  # exit status after a signal: all is saved, the same line goes on; BSD's EX_TEMPFAIL
PORT = 8476  # of the coordinator, where the launcher names none
TOKEN = "BIAS_CLIP_TOKEN"  # the environment's variable that proves a process to be of the run
