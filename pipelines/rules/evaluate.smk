# Predictions against references: a row a case and structure.


rule evaluate:
    input:
        predictions=lambda job: run_of(job).predictions,
        splits=f"{RUN}/splits.json",
    output:
        scores=f"{RUN}/scores{SHARED}.csv",
        summary=f"{RUN}/summary{SHARED}.json",
    log:
        f"{RUN}/logs/evaluate{SHARED}.log",
    benchmark:
        f"{RUN}/logs/evaluate{SHARED}.tsv"
    threads: config["threads"]["evaluate"]
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        predictions=lambda job: f"{run_of(job).folder}/predictions",
        table=lambda job: f"{run_of(job).prepared.folder}/samples.csv",
        split=lambda job: run_of(job).split,
        shard=lambda job: ["--shard", f"{job.shard}/{job.shards}"] if SHARED else [],
        out=subpath(output.scores, parent=True),
    shell:
        "medseg evaluate --in {params.predictions:q} --reference {params.table:q} --split {params.split}"
        " --splits {input.splits:q} --out {params.out:q} --workers {threads} {params.shard:q} 2>&1 | tee {log:q}"
