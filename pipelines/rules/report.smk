# All runs of a study on one self-contained page.


rule report:
    input:
        scores=[scores for run in RUNS.values() for scores in run.scores],
    output:
        page="data/reports/{study}.html",
    log:
        "data/reports/logs/{study}.log",
    benchmark:
        "data/reports/logs/{study}.tsv"
    threads: config["threads"]["report"]
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "medseg report {input.scores:q} --title {wildcards.study:q} --out {output.page:q} 2>&1 | tee {log:q}"
