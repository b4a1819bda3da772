# IN:  results/scores/, results/runs/, results/embeddings/, results/checkpoints/, results/benchmarks/
# OUT: results/scores.csv, results/metrics.json, results/tables/, results/figures/, results/report.html


rule report:
    """Write the tables, the figures and the page"""
    input:
        scores=everything(f"{R}/scores/{{backbone}}/{{recipe}}/{{benchmark}}"),
        embeddings=all_embeddings(),
        runs=everything(f"{R}/runs/{{backbone}}/{{recipe}}/{{benchmark}}.parquet"),
        checkpoints=everything(f"{R}/checkpoints/{{backbone}}/{{recipe}}"),
        benchmarks=sorted(Path(f"{R}/benchmarks").glob("*.json")),
        published="config/published.yaml",
        code=code("report"),
    output:
        f"{R}/scores.csv",
        f"{R}/metrics.json",
        directory(f"{R}/tables"),
        directory(f"{R}/figures"),
        f"{R}/report.html",
    log:
        err=f"{R}/logs/report.log",
        manifest=f"{R}/manifests/report.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        config=to_json(CONFIG),
        registries="config",
    shell:
        "python -m gcl.report --config {params.config:q} --registries {params.registries:q}"
        " --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"
