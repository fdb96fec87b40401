"""A model worker for FastChat's controller: its web server, arena and API then draft and verify.

worker_params   a request of FastChat's as prompt and options      prompt_format   the template it renders prompts by
model_worker    the worker: registers, answers, beats
"""
