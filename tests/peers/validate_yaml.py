"""Looks at YAML files as an editor does: by the JSON Schema that the first line of each names. Prints what is wrong, a line each."""
import json, os, re, sys
import jsonschema, yaml

class Words(yaml.SafeLoader):
    """Yes and no are words, and times of day are no numbers to the base 60, as in YAML 1.2, which we and editors read."""

Words.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Words.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))
Words.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^-?[0-9]+$"), list("-0123456789"))
Words.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^-?[0-9]+\.[0-9]+$"), list("-0123456789"))

def plain(value):
    """Keys of JSON are texts."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value

for path in sys.argv[1:]:
    text = open(path, encoding="utf-8").read()
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    if not named:
        print(f"{path}: its first line names no schema")
        continue
    with open(os.path.join(os.path.dirname(path), named[1])) as file:
        schema = json.load(file)
    jsonschema.Draft202012Validator.check_schema(schema)
    for fault in jsonschema.Draft202012Validator(schema).iter_errors(plain(yaml.load(text, Words)) or {}):
        print(f"{path}: {fault.json_path}: {fault.message}"[:300])
    print(f"{path}: looked at")
