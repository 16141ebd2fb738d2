#!/usr/bin/env bash
# Sphinx 9.0.4: a document called search at the root is lost, and nothing is said, with -W, too.
# Expected: a warning, or another name for one of the two.
# Seen: the build succeeds; search.html is Sphinx's own search page, of the document's text there is nothing, and the entry of
# the toctree, which names the document, is "Search Page".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sphinx==9.0.4
mkdir "$folder/docs"
cd "$folder/docs"
touch conf.py
printf 'Front\n=====\n\n.. toctree::\n\n   search\n   other\n' > index.rst
printf 'How to look for parameters\n==========================\n\nA random walk.\n' > search.rst
printf 'Another page\n============\n\nAnother walk.\n' > other.rst
"$folder/venv/bin/sphinx-build" -q -W --keep-going . "$folder/site" && echo "no warning"
grep -q "Another walk" "$folder/site/other.html"
if grep -q "random walk" "$folder/site/search.html"; then
  echo "changed: the document is there"
  exit 1
fi
grep -o '<li class="toctree-l1"><a[^>]*search.html">Search Page' "$folder/site/index.html"
