# IN:  results/onnx/<backbone>/<recipe>/, results/prepared/<benchmark>/
# OUT: results/embeddings/, results/calibrations/, results/runs/<backbone>/<recipe>/<benchmark>.parquet, results/rerankers/,
#      results/reranked/, results/taught/, results/scores/, results/submissions/


rule infer_towers:
    """Embed {wildcards.part} with the frozen towers of {wildcards.backbone}, once for all recipes"""
    input:
        onnx=f"{R}/onnx/{{backbone}}/towers",
        prepared=part_folder,
        code=code("infer"),
    output:
        directory(f"{R}/embeddings/{{backbone}}/towers/{{part}}"),
    log:
        err=f"{R}/logs/{{backbone}}/towers/infer.{{part}}.log",
        manifest=f"{R}/manifests/{{backbone}}/towers/infer.{{part}}.json",
    conda:
        ENVIRONMENT
    threads: share_of_cores()
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=GPU,
    params:
        device=CONFIG.device,
        flip=lambda w: "--flip" if w.part == CONFIG.pairs else "",
        shard=shard,
    shell:
        "python -m gcl.infer --onnx {input.onnx:q} --prepared {input.prepared:q} --device {params.device} {params.flip}"
        " {params.shard} --threads {threads} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule infer_sentences:
    """Embed the captions of {CONFIG.pairs} with the sentence encoder {CONFIG.sentences}"""
    input:
        onnx=f"{R}/onnx/{CONFIG.sentences}/towers",
        prepared=f"{R}/prepared/{CONFIG.pairs}",
        code=code("infer"),
    output:
        directory(f"{R}/embeddings/sentences/{CONFIG.pairs}"),
    log:
        err=f"{R}/logs/sentences/infer.{CONFIG.pairs}.log",
        manifest=f"{R}/manifests/sentences/infer.{CONFIG.pairs}.json",
    conda:
        ENVIRONMENT
    threads: share_of_cores()
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=GPU,
    params:
        device=CONFIG.device,
    shell:
        "python -m gcl.infer --onnx {input.onnx:q} --prepared {input.prepared:q} --device {params.device} --only-texts"
        " --threads {threads} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule infer_triplets:
    """Embed the triplets {wildcards.triplets} with the frozen towers of {wildcards.backbone}"""
    input:
        onnx=f"{R}/onnx/{{backbone}}/towers",
        prepared=lambda w: triplets_folder(w.backbone, w.triplets),
        code=code("infer"),
    output:
        directory(f"{R}/embeddings/{{backbone}}/triplets/{{triplets}}"),
    log:
        err=f"{R}/logs/{{backbone}}/towers/infer.triplets.{{triplets}}.log",
        manifest=f"{R}/manifests/{{backbone}}/towers/infer.triplets.{{triplets}}.json",
    conda:
        ENVIRONMENT
    threads: share_of_cores()
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=GPU,
    params:
        device=CONFIG.device,
        texts=lambda w: "" if w.triplets in PROJECT.datasets else "--only-texts",
    shell:
        "python -m gcl.infer --onnx {input.onnx:q} --prepared {input.prepared:q} --device {params.device} {params.texts}"
        " --threads {threads} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule infer:
    """Embed {wildcards.part} with {wildcards.recipe} on {wildcards.backbone}"""
    input:
        unpack(infer_inputs),
        code=code("infer"),
    output:
        directory(f"{R}/embeddings/{{backbone}}/{{recipe}}/{{part}}"),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/infer.{{part}}.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/infer.{{part}}.json",
    conda:
        ENVIRONMENT
    threads: infer_threads
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=GPU,
    params:
        device=CONFIG.device,
        paths=flags("onnx", "features", "prepared"),
        shard=lambda w: [] if is_heads(w.recipe) else shard(w),
    shell:
        "python -m gcl.infer {params.paths:q} --device {params.device} --threads {threads}"
        " {params.shard} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule infer_pairs:
    """Embed {CONFIG.pairs} with {wildcards.recipe} on {wildcards.backbone}, to fit its calibration"""
    input:
        unpack(infer_pairs_inputs),
        code=code("infer"),
    output:
        temp(directory(f"{R}/pair_embeddings/{{backbone}}/{{recipe}}")),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/infer_pairs.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/infer_pairs.json",
    conda:
        ENVIRONMENT
    threads: infer_threads
    resources:
        mem_mb=8000,
        runtime=1440,
        gpu=lambda w: 0 if is_heads(w.recipe) else GPU,
    params:
        device=lambda w: "cpu" if is_heads(w.recipe) else CONFIG.device,
        paths=flags("onnx", "features", "prepared"),
    shell:
        "python -m gcl.infer {params.paths:q} --device {params.device} --threads {threads}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule calibrate:
    """Fit the calibration of {wildcards.recipe} on {wildcards.backbone} on {CONFIG.pairs}"""
    input:
        embeddings=f"{R}/pair_embeddings/{{backbone}}/{{recipe}}",
        prepared=f"{R}/prepared/{CONFIG.pairs}",
        onnx=f"{R}/onnx/{{backbone}}/{{recipe}}",
        code=code("retrieve.calibrate"),
    output:
        directory(f"{R}/calibrations/{{backbone}}/{{recipe}}"),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/calibrate.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/calibrate.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        bank=lambda w: BANK if set(experiment_of(CONFIG, w.recipe).calibrations) & BIASES.keys() else 0,
    shell:
        "python -m gcl.retrieve.calibrate --embeddings {input.embeddings:q} --prepared {input.prepared:q}"
        " --onnx {input.onnx:q} --bank {params.bank} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule retrieve:
    """Rank the pools of {wildcards.benchmark} for every query, exactly"""
    input:
        unpack(retrieve_inputs),
        onnx=f"{R}/onnx/{{backbone}}/{{recipe}}",
        code=code("retrieve"),
    output:
        f"{R}/runs/{{backbone}}/{{recipe}}/{{benchmark}}.parquet",
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/retrieve.{{benchmark}}.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/retrieve.{{benchmark}}.json",
    conda:
        ENVIRONMENT
    threads: retrieve_threads
    resources:
        mem_mb=4000,
        runtime=1440,
        gpu=GPU,
    params:
        calibrations=lambda w: [
            mode for mode in experiment_of(CONFIG, w.recipe).calibrations if mode not in SECOND_STAGES
        ],
        depth=CONFIG.depth,
        device=CONFIG.device,
        paths=flags("prepared", "embeddings", "shared", "onnx", "calibration"),
    shell:
        "python -m gcl.retrieve {params.paths:q}"
        " --calibrations {params.calibrations} --depth {params.depth} --device {params.device}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule fit_reranker:
    """Train the re-ranker of {wildcards.recipe} on {CONFIG.reranker}"""
    input:
        unpack(lambda w: rerank_inputs(w.backbone, w.recipe, CONFIG.reranker)),
        pairs=f"{R}/prepared/{CONFIG.pairs}",
        code=code("rerank.fit_reranker"),
    output:
        directory(f"{R}/rerankers/{{backbone}}/{{recipe}}/rerank"),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/fit_reranker.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/fit_reranker.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        paths=flags("run", "prepared", "embeddings", "towers", "shared", "calibration", "pairs"),
    shell:
        "python -m gcl.rerank.fit_reranker {params.paths:q}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule fit_joint:
    """Train {wildcards.network}, a re-ranker of {wildcards.recipe} with both in sight, on {CONFIG.reranker}"""
    input:
        unpack(lambda w: rerank_inputs(w.backbone, w.recipe, CONFIG.reranker)),
        tokens=f"{R}/onnx/{CONFIG.reader}/towers",
        weights=lambda w: fetched_lists([CONFIG.reader]),
        code=lambda w: code("rerank.fit_joint", f"models.{PROJECT.backbones[CONFIG.reader].family}"),
    output:
        directory(f"{R}/rerankers/{{backbone}}/{{recipe}}/{{network}}"),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/fit_{{network}}.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/fit_{{network}}.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=8000,
        runtime=720,
    params:
        paths=flags("run", "prepared", "embeddings", "tokens"),
        row=lambda w: to_json(PROJECT.backbones[CONFIG.reader]),
    shell:
        "python -m gcl.rerank.fit_joint {params.paths:q} --network {wildcards.network} --backbone {params.row:q}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule rerank:
    """Rank the first candidates of every query of {wildcards.benchmark} again"""
    input:
        unpack(lambda w: rerank_inputs(w.backbone, w.recipe, w.benchmark)),
        unpack(rerankers),
        code=code("rerank"),
    output:
        f"{R}/reranked/{{backbone}}/{{recipe}}/{{benchmark}}.parquet",
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/rerank.{{benchmark}}.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/rerank.{{benchmark}}.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=1440,
    params:
        paths=flags("run", "prepared", "embeddings", "towers", "shared", "calibration", "reranker", "tokens"),
    shell:
        "python -m gcl.rerank {params.paths:q}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule teach:
    """Write what {wildcards.stage} of {wildcards.recipe} on {CONFIG.reranker} teaches"""
    input:
        unpack(lambda w: teach_inputs(w.backbone, w.recipe)),
        code=code("rerank.teach"),
    output:
        directory(f"{R}/taught/{{backbone}}/{{recipe}}/{{stage}}"),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/teach.{{stage}}.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/teach.{{stage}}.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        paths=flags("run", "prepared", "towers", "shared"),
    shell:
        "python -m gcl.rerank.teach {params.paths:q} --kind {wildcards.stage}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule score:
    """Score {wildcards.recipe} on {wildcards.benchmark} with ir_measures"""
    input:
        run=last_run,
        prepared=f"{R}/prepared/{{benchmark}}",
        code=code("score"),
    output:
        directory(f"{R}/scores/{{backbone}}/{{recipe}}/{{benchmark}}"),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/score.{{benchmark}}.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/score.{{benchmark}}.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        measures=lambda w: PROJECT.benchmarks[w.benchmark].measures,
        resamples=CONFIG.resamples,
    shell:
        "python -m gcl.score --run {input.run:q} --prepared {input.prepared:q} --backbone {wildcards.backbone:q}"
        " --recipe {wildcards.recipe:q} --benchmark {wildcards.benchmark:q} --measures {params.measures}"
        " --resamples {params.resamples} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule submit:
    """Write {wildcards.recipe} on {wildcards.benchmark} as files for its evaluation server"""
    input:
        run=f"{R}/runs/{{backbone}}/{{recipe}}/{{benchmark}}.parquet",
        prepared=f"{R}/prepared/{{benchmark}}",
        code=reader_code("score.submit"),
    output:
        directory(f"{R}/submissions/{{backbone}}/{{recipe}}/{{benchmark}}"),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/submit.{{benchmark}}.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/submit.{{benchmark}}.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        reader=lambda w: PROJECT.benchmarks[w.benchmark].reader,
    shell:
        "python -m gcl.score.submit --run {input.run:q} --prepared {input.prepared:q} --reader {params.reader}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"
