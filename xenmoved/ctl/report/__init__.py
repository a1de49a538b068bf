"""A job as one page of HTML, with plots, that needs nothing but itself.

units    numbers as a page shows them
scale    axes: where a value is, and which values are marked
markup   elements of HTML and SVG, in which no text can be taken for markup
charts   what every plot is made of
plots    the plots
style    the style sheet
page     the page
file     the file that it is written to
"""
