# From raw scans to a report: one rule a stage, each the command of the same name.
#
#   snakemake --cores all                        the study that conf/workflow.yaml names
#   snakemake --cores all --config study=mine    another one
#   snakemake --cores all --dry-run              what would be done, and why

from snakemake.utils import min_version, validate

min_version("9.18")


configfile: f"{workflow.basedir}/conf/workflow.yaml"


if Path("conf/workflow.yaml").is_file():

    configfile: "conf/workflow.yaml"


validate(config, "pipelines/schemas/workflow.schema.yaml")


container: config["container"]


include: "pipelines/rules/study.smk"


wildcard_constraints:
    data=r"[^/]+",
    prepared=r"[^/]+",
    experiment=r"[^/]+",
    variant=r"[^/]+",
    seed=r"\d+",
    shard=r"\d+",
    shards=r"\d+",


localrules:
    all,


rule all:
    input:
        f"data/reports/{config['study']}.html",


include: "pipelines/rules/check.smk"
include: "pipelines/rules/prepare.smk"
include: "pipelines/rules/train.smk"
include: "pipelines/rules/predict.smk"
include: "pipelines/rules/evaluate.smk"
include: "pipelines/rules/report.smk"
