"""train once on image-caption pairs, then retrieve any modality from any modality

IN:  config/*.yaml, data/openclipart/pictures.parquet
OUT: results/tables, results/figures, results/report.html, results/submissions
"""

from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/retrieval.smk"
include: "workflow/rules/report.smk"


onstart:
    LOCK.__enter__()  # held until this process ends, however it ends: a kill leaves none behind
    sweep(Path(R))


rule prepared:
    """All data sets, prepared: a stage of dvc.yaml"""
    input:
        everything_prepared(),
    output:
        touch(f"{R}/done/prepared"),


rule first:
    """Print the first scores that there can be: of the first experiment on the first backbone"""
    input:
        first_scores(),
    output:
        touch(f"{R}/done/first"),
    conda:
        ENVIRONMENT
    params:
        results=R,
    shell:
        "python -m gcl.report.glance --results {params.results:q}"


rule backbone:
    """Print all scores of {wildcards.backbone}: a stage of dvc.yaml for each backbone"""
    input:
        lambda w: everything(f"{R}/scores/{{backbone}}/{{recipe}}/{{benchmark}}", backbones=[w.backbone]),
    output:
        touch(f"{R}/done/{{backbone}}"),
    conda:
        ENVIRONMENT
    params:
        results=R,
    shell:
        "python -m gcl.report.glance --results {params.results:q} --backbone {wildcards.backbone:q}"


rule all:
    """Everything that config.yaml asks for"""
    default_target: True
    input:
        f"{R}/report.html",
        f"{R}/done/first",
        sorted({f"{R}/done/{backbone}" for backbone, _ in runs_of(CONFIG)}),
        everything(f"{R}/submissions/{{backbone}}/{{recipe}}/{{benchmark}}", CONFIG.submissions),
