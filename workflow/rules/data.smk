# IN:  rows of config/datasets.yaml and config/benchmarks.yaml
# OUT: data/<dataset>/fetched.json, results/prepared/<pairs or benchmark>/, results/shared/<benchmark>/, results/triplets/,
#      results/composed/<backbone>/


rule fetch:
    """Make the files of {wildcards.dataset} present and check them"""
    input:
        code=code("fetch"),
    output:
        "data/{dataset}/fetched.json",
    log:
        err=f"{R}/logs/fetch/{{dataset}}.log",
        manifest=f"{R}/manifests/fetch/{{dataset}}.json",
    priority: 1  # all else waits for them
    conda:
        ENVIRONMENT
    resources:
        mem_mb=2000,
        runtime=2880,
    params:
        row=lambda w: to_json(wanted(PROJECT, w.dataset)),
        own=own_content,
    shell:
        "python -m gcl.fetch --name {wildcards.dataset:q} --dataset {params.row:q} {params.own}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule prepare_pairs:
    """Turn {CONFIG.pairs} into canonical training pairs"""
    input:
        fetched=f"data/{CONFIG.pairs}/fetched.json",
        code=code("prepare", *(f"prepare.pairs.{form}" for form in forms())),
    output:
        directory(f"{R}/prepared/{CONFIG.pairs}"),
    log:
        err=f"{R}/logs/prepare/{CONFIG.pairs}.log",
        manifest=f"{R}/manifests/prepare/{CONFIG.pairs}.json",
    priority: 1
    conda:
        ENVIRONMENT
    threads: pair_threads()
    resources:
        mem_mb=8000,
        runtime=720,
    params:
        data=f"data/{CONFIG.pairs}",
        reader=PROJECT.datasets[CONFIG.pairs].pairs,
        limit=CONFIG.reject_limit,
        cut=["--max-pairs", CONFIG.max_pairs] if CONFIG.max_pairs else [],
        held=hold_out(),
    shell:
        "python -m gcl.prepare --data {params.data:q} --reader {params.reader:q} --reject-limit {params.limit}"
        " {params.cut} {params.held:q} --workers {threads} --output {output:q} --manifest {log.manifest:q}"
        " 2> >(tee {log.err:q} >&2)"


rule triplets:
    """Turn {wildcards.dataset} into canonical triplets"""
    input:
        fetched="data/{dataset}/fetched.json",
        code=code("prepare.triplets"),
    output:
        directory(f"{R}/triplets/{{dataset}}"),
    log:
        err=f"{R}/logs/triplets/{{dataset}}.log",
        manifest=f"{R}/manifests/triplets/{{dataset}}.json",
    conda:
        ENVIRONMENT
    threads: workflow.cores
    resources:
        mem_mb=16000,
        runtime=1440,
    params:
        data=lambda w: f"data/{w.dataset}",
        form=lambda w: PROJECT.datasets[w.dataset].triplets,
        limit=CONFIG.reject_limit,
    shell:
        "python -m gcl.prepare.triplets --data {params.data:q} --form {params.form:q} --reject-limit {params.limit}"
        " --workers {threads} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule compose:
    """Make triplets of {CONFIG.pairs}, of each pair and pairs like it by {wildcards.backbone}"""
    input:
        pairs=f"{R}/prepared/{CONFIG.pairs}",
        features=f"{R}/embeddings/{{backbone}}/towers/{CONFIG.pairs}",
        code=code("prepare.compose"),
    output:
        directory(f"{R}/composed/{{backbone}}/composed.{{neighbours}}"),
    log:
        err=f"{R}/logs/{{backbone}}/compose.{{neighbours}}.log",
        manifest=f"{R}/manifests/{{backbone}}/compose.{{neighbours}}.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        "python -m gcl.prepare.compose --pairs {input.pairs:q} --features {input.features:q}"
        " --neighbours {wildcards.neighbours} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule prepare_benchmark:
    """Turn {wildcards.benchmark} into canonical queries, pools and qrels"""
    input:
        source=benchmark_source,
        captions=captions_file,
        code=reader_code("prepare"),
    output:
        directory(f"{R}/prepared/{{benchmark}}"),
    log:
        err=f"{R}/logs/prepare/{{benchmark}}.log",
        manifest=f"{R}/manifests/prepare/{{benchmark}}.json",
    priority: 1
    conda:
        ENVIRONMENT
    threads: prepare_threads
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        data=lambda w: data_folder(w.benchmark),
        images=lambda w: images_folder(w.benchmark),
        row=lambda w: to_json(PROJECT.benchmarks[w.benchmark]),
        cut=["--max-queries", CONFIG.max_queries] if CONFIG.max_queries else [],
    shell:
        "python -m gcl.prepare --data {params.data:q} --images {params.images:q} --benchmark {params.row:q}"
        " --workers {threads} {params.cut} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule share:
    """Find what of {wildcards.benchmark} earlier benchmarks have, so that it is embedded once"""
    input:
        prepared=f"{R}/prepared/{{benchmark}}",
        earlier=lambda w: [to_embed(PROJECT, name) for name in earlier(PROJECT, w.benchmark)],
        code=code("prepare.share"),
    output:
        directory(f"{R}/shared/{{benchmark}}"),
    log:
        err=f"{R}/logs/share/{{benchmark}}.log",
        manifest=f"{R}/manifests/share/{{benchmark}}.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=8000,
        runtime=60,
    shell:
        "python -m gcl.prepare.share --prepared {input.prepared:q} --earlier {input.earlier:q}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"
