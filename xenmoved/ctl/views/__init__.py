"""What the daemon's answers look like. Every view is made from an answer and the time alone.

host        the daemon, its guests, plans and peers
jobs        jobs as text
course      the course of a job, as numbers
live        a running job on a terminal
hooks       what is run before, at and after moves
evacuation  an evacuation as text
authority   what an authority has signed
remarks     remarks, those that need somebody first
"""
