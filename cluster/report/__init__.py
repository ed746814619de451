"""`azero report`: one self-contained HTML file from run directories.

    data.py -> tables.py, figures.py -> sections.py (sections.yaml) -> page.py (report.html.j2, browser.js)

data reads run directories, tables and figures say how to show things, sections what stands where, and page puts it
together. Nothing here knows a domain: problems, answers, structures and cells are strings, a payload is JSON.
"""
