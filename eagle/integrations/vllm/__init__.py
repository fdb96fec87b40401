"""A plug-in for vLLM's first model runner: chains of an EAGLE-3 head are verified by `hsd`, which accepts more.

vLLM loads it in each of its processes (`vllm.general_plugins`), where it does nothing unless the environment asks:

    EAGLE_HSD_VLLM_VERIFIER   hsd: the rule of hsd_verify; tokenwise: vLLM's own, repaired; off, the default: nothing
    EAGLE_HSD_VLLM_TAU        a directory for the exact tau of both rules on the rounds that were decoded, as JSON

It needs hsd_verify and torch, and of vLLM one function to replace in each of three places (`plugin.py`).
"""
