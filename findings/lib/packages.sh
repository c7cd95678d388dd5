# Sourced by each finding: `packages NAME==VERSION …` installs these into a temporary environment, which is removed at
# the end. PYTHON names the interpreter to use (default: python3). The script then runs in an empty folder of its own.
set -euo pipefail
library=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

packages() {
    "${PYTHON:-python3}" -m venv "$folder/environment"
    PATH="$folder/environment/bin:$PATH"
    pip install --quiet --disable-pip-version-check "$@"
    echo "Installed: $*"
}
