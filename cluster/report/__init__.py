"""`azero report`: one self-contained HTML file from run directories.

    data.py -> tables.py, figures.py -> page.py (report.html.j2, browser.js)

data reads run directories, tables and figures say what to show, page puts it together. Nothing here knows a domain:
problems, answers and structures are strings.
"""
