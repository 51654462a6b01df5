#!/usr/bin/env bash
# Stage 1: Japanese Wikipedia to data/train.txt, data/valid.txt and data/test.txt, below the current folder.
#
# Downloads and verifies the dump of a date, or takes local dump files; then extract_jawiki.py makes clean text of it
# and prepare_corpus.py splits that by document:
#
#     bash get_jawiki.sh 20261101
set -euo pipefail

usage() {
    cat <<'HELP'
Usage: get_jawiki.sh DATE | latest | FILE...  [OPTION VALUE]...

Writes data/train.txt, data/valid.txt and data/test.txt below the current folder: one sentence a line, a blank line
after each article. data/jawiki.txt, the text before the split, stays beside them.

  DATE             Day of a dump as in https://dumps.wikimedia.org/jawiki/, e.g. 20261101. It is downloaded to
                   data/dump (about 5 GB), resumed where an earlier download broke off, and verified.
  latest           The newest dump that is complete.
  FILE...          Files of one dump that you have: *-pages-articles*.xml.bz2, pXpY parts, or plain .xml; - is
                   standard input.

  --mirror URL     Server to download from instead of https://dumps.wikimedia.org, e.g. a mirror near you.
  --contact TEXT   Your mail or web address; dumps.wikimedia.org wants one in the User-Agent of every download.
  --num_workers N  Processes that unpack and clean pages, one a core when not given. The text is the same.
  --valid_sentences N, --test_sentences N
                   Sentences for data/valid.txt and data/test.txt; see python3 prepare_corpus.py --help.
  --filters NAME   default, or none to keep every line and document. For other filters run prepare_corpus.py on
                   data/jawiki.txt, which stays there.
  --name TEXT, --license TEXT, --source TEXT
                   What the records and the model card say of the text: jawiki, CC BY-SA 4.0 and Japanese Wikipedia
                   when not given. A dump of another wiki has its own.
  --help           This text.

The Python that runs is python3, or the one that the environment variable PYTHON names.
HELP
}

fail() {
    echo "get_jawiki.sh: error: $1" >&2
    exit 2
}

here=$(CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

check_python() {
    command -v "$python" >/dev/null || fail "$python not found: install Python 3.11 or newer, or name one with PYTHON=..."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version 2>&1) is too old: use Python 3.11 or newer, or name one with PYTHON=..."
    local package
    for package in tqdm numpy orjson; do
        "$python" -c "import $package" 2>/dev/null ||
            fail "the Python package $package is missing: run '$python -m pip install $package', or make .venv"
    done
}

given=()
download=() # options of each stage
extract=()
corpus=(--name=jawiki "--license=CC BY-SA 4.0" "--source=Japanese Wikipedia, https://ja.wikipedia.org/")
while (($#)); do
    argument=$1 && shift
    if [[ $argument != --* ]]; then
        [[ $argument != -h ]] || { usage && exit 0; }
        given+=("$argument") && continue
    fi
    name=${argument%%=*} && name=${name#--} && name=--${name//-/_}
    [[ $name != --help ]] || { usage && exit 0; }
    if [[ $argument == *=* ]]; then
        value=${argument#*=}
    elif (($#)); then
        value=$1 && shift
    else
        fail "$argument needs a value"
    fi
    case $name in
        --mirror) download+=("$name=$value") ;;
        --contact) export BERT_JA_CONTACT=$value ;;
        --num_workers)
            [[ $value =~ ^[1-9][0-9]*$ ]] || fail "--num_workers must be 1 or more, got $value"
            extract+=("$name=$value") ;;
        --valid_sentences | --test_sentences)
            [[ $value =~ ^[1-9][0-9]*$ ]] || fail "$name must be 1 or more, got $value"
            corpus+=("$name=$value") ;;
        --filters)
            [[ $value == default || $value == none ]] || fail "--filters must be default or none, got $value"
            corpus+=("$name=$value") ;;
        --name | --license | --source)
            [[ $name != --name || $value =~ [^[:space:]] ]] || fail "--name is empty: give the corpus a name"
            for index in "${!corpus[@]}"; do # in place of ours
                [[ ${corpus[index]} != "$name="* ]] || corpus[index]="$name=$value"
            done ;;
        *) fail "$argument is not an option of get_jawiki.sh (see bash get_jawiki.sh --help)" ;;
    esac
done

((${#given[@]})) || fail "no dump is named: bash get_jawiki.sh DATE | latest | FILE... (see --help)"
check_python
for part in train valid test; do
    [[ ! -d data/$part.txt ]] || fail "data/$part.txt is a folder, where a file is to go: move it away"
done
export BERT_JA_PARENT=$$ # so that no stage runs on when this script is killed

if [[ ${#given[@]} -eq 1 && (${given[0]} == latest || ${given[0]} =~ ^[0-9]{4}-?[0-9]{2}-?[0-9]{2}$) ]]; then
    listing=$(PYTHONPATH=$here exec "$python" -P -m bert_ja.dumps "${given[0]}" --output_dir data/dump "${download[@]}")
    mapfile -t given <<<"$listing"
else
    for file in "${given[@]}"; do
        [[ $file != latest && ! $file =~ ^[0-9]{8}$ || -e $file ]] || fail "$file is a dump of its own: name it alone"
        [[ -e $file || $file == - ]] || fail "$file is neither a date (YYYYMMDD), nor latest, nor a file"
    done
    ((${#download[@]} == 0)) || fail "${download[0]%%=*} has no use with local files: name a date, or leave it out"
fi

"$python" "$here/extract_jawiki.py" "${given[@]}" --output_file data/jawiki.txt "${extract[@]}"
"$python" "$here/prepare_corpus.py" data/jawiki.txt --output_dir data "${corpus[@]}"
