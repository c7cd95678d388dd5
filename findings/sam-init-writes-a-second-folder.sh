#!/usr/bin/env bash
# `sam init --location TEMPLATE --name "My Project"` leaves two folders where the template derives a slug.
#
# SAM CLI 1.170.0 passes the name to the template as `project_name`, and afterwards writes its own `samconfig.toml` into a
# folder of exactly that name, whether or not the template made one. The project itself lies in the folder of the slug.
. "$(dirname "$0")/lib/packages.sh"
packages aws-sam-cli==1.170.0

mkdir -p 'template/{{cookiecutter.slug}}'
echo '{"project_name": "Demo", "slug": "{{ cookiecutter.project_name | slugify }}"}' > template/cookiecutter.json
echo 'Resources: {}' > 'template/{{cookiecutter.slug}}/template.yaml'
SAM_CLI_TELEMETRY=0 sam init --no-input --location template --name "My Project" > sam.log 2>&1
find . -path ./environment -prune -o -path ./template -prune -o -type f -print | sort
test -f my-project/template.yaml
test "$(ls -A 'My Project')" = samconfig.toml
