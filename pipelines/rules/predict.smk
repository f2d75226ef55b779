# A model's predictions for its share of the table's cases, each in its scan's own space.


rule predict:
    input:
        index=lambda job: run_of(job).prepared.index,
        model=f"{RUN}/model/model.json",
        weights=f"{RUN}/model/model.safetensors",
        splits=f"{RUN}/splits.json",
    output:
        done=touch(f"{RUN}/predictions/{{shard}}-of-{{shards}}.done"),
    log:
        f"{RUN}/logs/predict-{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{RUN}/logs/predict-{{shard}}-of-{{shards}}.tsv"
    threads: config["threads"]["predict"]
    resources:
        gpu=config["gpu"],
        mem_mb=lambda job, attempt: 8000 * attempt,
        runtime=240,
    params:
        model=subpath(input.model, parent=True),
        table=lambda job: f"{run_of(job).prepared.folder}/samples.csv",
        split=lambda job: run_of(job).split,
        out=subpath(output.done, parent=True),
        asked=lambda job: [
            *run_of(job).asked,
            *(["--also", run_of(job).also] if run_of(job).also else []),
        ],
    shell:
        "medseg predict {params.model:q} {params.table:q} --split {params.split} --splits {input.splits:q}"
        " --out {params.out:q} --shard {wildcards.shard}/{wildcards.shards} --threads {threads} {params.asked:q} 2>&1 | tee {log:q}"
