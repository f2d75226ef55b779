# Raw scans become the canonical, memory-mapped form that training reads; generated data are made here.


rule prepare:
    input:
        lambda job: prepared_of(job).inputs,
    output:
        index=f"{PREPARED}/index/{{shard}}-of-{{shards}}.json",
    log:
        f"{PREPARED}/logs/prepare-{{shard}}-of-{{shards}}.log",
    benchmark:
        f"{PREPARED}/logs/prepare-{{shard}}-of-{{shards}}.tsv"
    priority: 10  # trainings of all data can then run side by side
    threads: config["threads"]["prepare"]
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        conf=CONF,
        overrides=lambda job: prepared_of(job).overrides,
        source=lambda job, input: ["--in", input[0]] if input else [],
        recipe=lambda job: prepared_of(job).fingerprint,
        out=subpath(output.index, ancestor=2),
    shell:
        "medseg prepare data={wildcards.data:q} {params.overrides:q} {params.source:q}"
        " --out {params.out:q} --shard {wildcards.shard}/{wildcards.shards} --workers {threads} {params.conf:q} 2>&1 | tee {log:q}"
