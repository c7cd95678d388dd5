#!/bin/sh
# Puts the interpreter that ships with the function into its package, without what no function needs:
#   sh interpreter.sh 3.13.18 arm64 FOLDER
# It is the one at PYTHON_HOME, else CPython as https://github.com/astral-sh/python-build-standalone builds it.
set -eu
unset CDPATH

fail() {
    echo "$*" >&2
    exit 1
}

release=$1 architecture=$2 folder=$3
case $release in
    3.*.*) version=${release%.*} ;;
    *) fail "PythonVersion in template.yaml is '$release'; it must be a release, such as 3.13.18" ;;
esac
case $architecture in
    arm64) machine=aarch64 code=b700 ;;
    x86_64) machine=x86_64 code=3e00 ;;
    *) fail "'$architecture' is neither arm64 nor x86_64" ;;
esac

home=${PYTHON_HOME:-}
if [ -z "$home" ]; then
    name=cpython-$release-linux-$machine-gnu
    home=.aws-sam/python/$name
    uv python install --no-progress --no-bin --install-dir .aws-sam/python "$name" || fail \
        "There is no Python $release for $architecture: uv could not download it (it says why above), and PYTHON_HOME" \
        "is not set. Either build with a network that reaches github.com, or a mirror that UV_PYTHON_INSTALL_MIRROR" \
        "names (if it is the release that uv does not know: uv self update). Or set PYTHON_HOME to a folder that" \
        "holds bin/python3 and lib/python$version: a relocatable Python $version for Linux on $architecture."
fi

# Whether it suits is seen without running it, since it may be for another processor.
[ -f "$home/bin/python3" ] || fail "PYTHON_HOME: there is no $home/bin/python3"
[ -f "$home/lib/python$version/os.py" ] ||
    fail "PYTHON_HOME: $home is no Python $version, which template.yaml asks for: it has no lib/python$version/os.py"
# A 64-bit ELF file begins with the first bytes, and names its machine in the last.
case $(od -An -v -tx1 -N 20 "$home/bin/python3" | tr -d ' \n') in
    7f454c4602*"$code") ;;
    *) fail "PYTHON_HOME: $home/bin/python3 is no program for Linux on $architecture, which template.yaml asks for" ;;
esac

# SAM's archive knows no links, and would hold the interpreter twice.
mkdir -p "$folder/bin" "$folder/lib"
cp -L "$home/bin/python3" "$folder/bin/python3"
cp -R "$home/lib/python$version" "$folder/lib"
for library in "$home"/lib/*.so*; do
    case $library in
        */libpython* | */libtcl* | */libtk* | *"*"*) ;;
        *) cp -R "$library" "$folder/lib" ;;
    esac
done
# python-build-standalone has the interpreter's library in bin/python3 as well; other builds need it.
if grep -q "libpython$version\.so" "$folder/bin/python3"; then
    cp "$home/lib/libpython$version.so.1.0" "$folder/lib"
fi

# Tests, editors, Tk, installers, what is for building C extensions, and .pyc files that SAM's archive would make stale.
cd "$folder/lib/python$version"
rm -rf config-* ensurepip idlelib lib2to3 pydoc_data test tkinter turtle.py turtledemo EXTERNALLY-MANAGED \
    site-packages dist-packages lib-dynload/_tkinter* lib-dynload/_test* lib-dynload/_ctypes_test* lib-dynload/xx*
find . -name __pycache__ -prune -exec rm -r {} +
cd - >/dev/null

# Where it runs on this machine, it says itself whether it came away from its modules.
status=127
if [ "$(uname -sm)" = "Linux $machine" ]; then
    ask='import sys; print(*sys.version_info[:2], sep=".", end=" "); print(sys.prefix)'
    answer=$("$folder/bin/python3" -I -B -c "$ask" 2>&1) && status=0 || status=$?
fi
case "$status ${answer:-}" in
    "0 $version $(cd "$folder" && pwd -P)") ;;
    127*"shared libraries"*) fail "PYTHON_HOME: $home lacks a library: $answer" ;;
    127*) echo "The interpreter was not tried out, since this machine cannot run it.${answer:+ It says: $answer}" ;;
    *) fail "PYTHON_HOME: $home is not relocatable: a copy of it answers '$answer'" ;;
esac
