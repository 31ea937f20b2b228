"""Reports as single HTML files: templates, charts and canvases, all in one page that loads nothing from elsewhere.

Pages show what `memcompile.report` finds out; nothing is computed here but the layout of what is shown. Who lives here:
`page` (the base of every page), `charts` and `library` (plotly's script, taken from the installed package), `numbers`
(figures with the key of the JSON report they come from), and the parts of the report of one program.
"""
