# What semi_infer.sh and semi_eval.sh have in common; they source it. Takes the settings out of the arguments.

dry_run=0
for word in "$@"; do
    shift
    case $word in
    -h | --help) usage && exit ;;
    --dry-run) dry_run=1 ;;
    DATA=* | PROMPT=* | CHECKPOINT=* | OUT=* | GT=* | PROCESSES=* | PYTHON=*) export "$word" ;;
    [A-Z]*=*)
        echo "$0: unknown setting ${word%%=*}" >&2
        usage >&2
        exit 2
        ;;
    *) set -- "$@" "$word" ;;
    esac
done

root=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python}
DATA=${DATA:-$root/data/sav_test}
PROMPT=${PROMPT:-gm}
CHECKPOINT=${CHECKPOINT:-i2vpp-demo}
OUT=${OUT:-$root/outputs/$(basename "$DATA")_$PROMPT}

run() {
    if [ "$dry_run" = 1 ]; then
        for word in "$@"; do # quoted where the shell needs it
            case $word in
            '' | *[!A-Za-z0-9_./:=,+@%-]*) printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")" ;;
            *) printf '%s ' "$word" ;;
            esac
        done
        echo
        exit
    fi
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    exec "$@"
}
