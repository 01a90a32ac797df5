"""scripts/deploy: a run of Ansible from a CI job, with its secrets.

chatops, with_key, scan: programs of their own, for the other jobs of a pipeline

hidden   the environment becomes one without secrets
inputs   what was asked for, checked by full match          secrets  what was given, what is missing, what is masked
private  a directory in memory, an agent for the SSH key    processes  everything that a run started, and its end
play     one playbook, run by ansible-runner                record   what its events say
show     the output as text or for GitHub                   cancel   the way back of a run that was cut short
"""
