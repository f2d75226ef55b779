# A user's table is looked through before anything is computed from it.


rule check:
    input:
        table=lambda job: prepared_of(job).table,
    output:
        report=f"{CHECKED}/check.json",
    log:
        f"{CHECKED}/check.log",
    benchmark:
        f"{CHECKED}/check.tsv"
    threads: config["threads"]["check"]
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        expected=lambda job: prepared_of(job).expected,
        out=subpath(output.report, parent=True),
    shell:
        "medseg check {input.table:q} --out {params.out:q} {params.expected:q} 2>&1 | tee {log:q}"
