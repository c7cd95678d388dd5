#!/usr/bin/env bash
# One default of a wrong type makes cookiecutter drop all that come after it.
#
# In a user's configuration `cookies: no` is a boolean for YAML, and not one of the choices "no" and "yes". cookiecutter
# 2.7.1 warns of that one, goes on with exit status 0, and ignores every later entry of `default_context` too; what
# stands before it is used.
. "$(dirname "$0")/lib/packages.sh"
packages cookiecutter==2.7.1

mkdir -p 'template/{{cookiecutter.slug}}'
echo '{"slug": "demo", "cookies": ["no", "yes"], "memory": "512"}' > template/cookiecutter.json
echo '{{cookiecutter.slug}} {{cookiecutter.cookies}} {{cookiecutter.memory}}' > 'template/{{cookiecutter.slug}}/answers'

printf 'default_context:\n  slug: mine\n  cookies: no\n  memory: "1024"\n' > bad.yaml
printf 'default_context:\n  slug: mine\n  cookies: "no"\n  memory: "1024"\n' > good.yaml
for file in good bad; do
    cookiecutter template --no-input --config-file $file.yaml --output-dir $file 2> $file.warning
    echo "$file: $(cat $file/mine/answers)"
done
test "$(cat good/mine/answers)" = "mine no 1024"
test "$(cat bad/mine/answers)" = "mine no 512"
grep 'Invalid default received: False provided for choice variable cookies' bad.warning
! grep memory bad.warning
