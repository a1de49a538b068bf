"""Jobs: what the daemon is busy with.

report    what a job looks like to the client: every view is made from it
options   what an operator may choose for a job
steering  what an operator may change while it runs
job       one job
timeline  the course of a job: phases, samples, the parts of a blackout
board     all jobs of this host
leftover  what a job that did not succeed leaves on the other host
"""
