# All runs of a study on one self-contained page.


rule report:
    input:
        scores=[scores for run in RUNS.values() for scores in run.scores],
    output:
        page=f"data/reports/{config['study']}.html",
    log:
        f"data/reports/logs/{config['study']}.log",
    benchmark:
        f"data/reports/logs/{config['study']}.tsv"
    threads: config["threads"]["report"]
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        title=config["study"],
    shell:
        "medseg report {input.scores:q} --title {params.title:q} --out {output.page:q} 2>&1 | tee {log:q}"
