#!/bin/sh
# Copy an interpreter into the function's package, without the parts that no function needs:
#   sh interpreter.sh 3.13.18 arm64 FOLDER
# It is the one at PYTHON_HOME, or else CPython from https://github.com/astral-sh/python-build-standalone.
set -eu
unset CDPATH

fail() {
    echo "$*" >&2
    exit 1
}

release=$1 architecture=$2 folder=$3
case $release in
    3.*.*) version=${release%.*} ;;
    *) fail "PythonVersion in template.yaml must be a release such as 3.13.18, got '$release'" ;;
esac
case $architecture in
    arm64) machine=aarch64 code=b700 ;;
    x86_64) machine=x86_64 code=3e00 ;;
    *) fail "The architecture must be arm64 or x86_64, got '$architecture'" ;;
esac

home=${PYTHON_HOME:-}
if [ -z "$home" ]; then
    name=cpython-$release-linux-$machine-gnu
    home=.aws-sam/python/$name
    uv python install --no-progress --no-bin --install-dir .aws-sam/python "$name" || fail \
        "Python $release for $architecture is missing: uv could not download it (see above), and PYTHON_HOME is not set." \
        "Build with access to github.com or to the mirror that UV_PYTHON_INSTALL_MIRROR names; if uv does not know the" \
        "release, run uv self update. Or set PYTHON_HOME to a folder with bin/python3 and lib/python$version: a" \
        "relocatable Python $version for Linux on $architecture."
fi

# The interpreter may be for another processor, so check its files instead of running it.
[ -f "$home/bin/python3" ] || fail "PYTHON_HOME: $home/bin/python3 does not exist"
[ -f "$home/lib/python$version/os.py" ] ||
    fail "PYTHON_HOME: $home is not Python $version, which template.yaml requires: lib/python$version/os.py is missing"
# A 64-bit ELF file starts with the first bytes and names its machine in the last ones.
case $(od -An -v -tx1 -N 20 "$home/bin/python3" | tr -d ' \n') in
    7f454c4602*"$code") ;;
    *) fail "PYTHON_HOME: $home/bin/python3 is not for Linux on $architecture, which template.yaml requires" ;;
esac

# SAM's archive does not support links and would contain the interpreter twice.
mkdir -p "$folder/bin" "$folder/lib"
cp -L "$home/bin/python3" "$folder/bin/python3"
cp -R "$home/lib/python$version" "$folder/lib"
for library in "$home"/lib/*.so*; do
    case $library in
        */libpython* | */libtcl* | */libtk* | *"*"*) ;;
        *) cp -R "$library" "$folder/lib" ;;
    esac
done
# bin/python3 of python-build-standalone contains the interpreter's library; other builds load it.
if grep -q "libpython$version\.so" "$folder/bin/python3"; then
    cp "$home/lib/libpython$version.so.1.0" "$folder/lib"
fi

# Remove tests, editors, Tk, installers, files to build C extensions, and .pyc files that SAM's archive makes stale.
cd "$folder/lib/python$version"
rm -rf config-* ensurepip idlelib lib2to3 pydoc_data test tkinter turtle.py turtledemo EXTERNALLY-MANAGED \
    site-packages dist-packages lib-dynload/_tkinter* lib-dynload/_test* lib-dynload/_ctypes_test* lib-dynload/xx*
find . -name __pycache__ -prune -exec rm -r {} +
cd - >/dev/null

# If it runs on this machine, check that the copy finds its modules.
status=127
if [ "$(uname -sm)" = "Linux $machine" ]; then
    ask='import sys; print(*sys.version_info[:2], sep=".", end=" "); print(sys.prefix)'
    answer=$("$folder/bin/python3" -I -B -c "$ask" 2>&1) && status=0 || status=$?
fi
case "$status ${answer:-}" in
    "0 $version $(cd "$folder" && pwd -P)") ;;
    127*"shared libraries"*) fail "PYTHON_HOME: $home lacks a library: $answer" ;;
    127*) echo "The interpreter was not tested, because this machine cannot run it.${answer:+ Output: $answer}" ;;
    *) fail "PYTHON_HOME: $home is not relocatable: a copy of it printed '$answer'" ;;
esac
