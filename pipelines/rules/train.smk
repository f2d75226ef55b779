# One recipe, one seed, one run folder.


rule train:
    input:
        index=lambda job: run_of(job).prepared.index,
    output:
        model=f"{RUN}/model/model.json",
        weights=f"{RUN}/model/model.safetensors",
        splits=f"{RUN}/splits.json",
    log:
        f"{RUN}/logs/train.log",
    benchmark:
        f"{RUN}/logs/train.tsv"
    threads: config["threads"]["train"]
    resources:
        gpu=config["gpu"],
        mem_mb=lambda job, attempt: 16000 * attempt,
        runtime=1440,
    params:
        conf=CONF,
        overrides=lambda job: run_of(job).overrides,
        recipe=lambda job: run_of(job).fingerprint,
        data=lambda job: run_of(job).prepared.folder,
        out=subpath(output.splits, parent=True),
    shell:
        "medseg train experiment={wildcards.experiment:q} seed={wildcards.seed} {params.overrides:q}"
        " trainer.threads={threads} --in {params.data:q} --out {params.out:q} {params.conf:q} 2>&1 | tee {log:q}"
