# IN:  data/<weights>/, results/prepared/<pairs>/, results/triplets/, rows of config/backbones.yaml and config/recipes.yaml
# OUT: results/checkpoints/<backbone>/<recipe>/seed<n>/, results/onnx/<backbone>/<recipe>/seed<n>/


rule export_towers:
    """Export the pretrained towers of {wildcards.backbone} to ONNX"""
    input:
        weights=towers_files,
        code=family_code("export"),
    output:
        directory(f"{R}/onnx/{{backbone}}/towers"),
    log:
        err=f"{R}/logs/{{backbone}}/towers/export.log",
        manifest=f"{R}/manifests/{{backbone}}/towers/export.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        row=lambda w: to_json(PROJECT.backbones[w.backbone]),
    shell:
        "python -m gcl.export --kind towers --name {wildcards.backbone:q} --backbone {params.row:q}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule train:
    """Train {wildcards.recipe} on {wildcards.backbone}, all seeds"""
    input:
        unpack(train_inputs),
        code=family_code("train"),
    output:
        directory(f"{R}/checkpoints/{{backbone}}/{{recipe}}"),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/train.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/train.json",
    conda:
        ENVIRONMENT
    threads: train_threads
    resources:
        mem_mb=16000,
        runtime=2880,
        gpu=lambda w: 0 if is_heads(w.recipe) else GPU * CONFIG.processes,
    params:
        backbone=lambda w: to_json(PROJECT.backbones[w.backbone]),
        recipe=lambda w: to_json(PROJECT.recipes[w.recipe]),
        seeds=lambda w: seeds(w.recipe),
        device=CONFIG.device,
        paths=flags("pairs", "features", "init", "sentences", "triplets", "taught"),
        launch=launch,
        resume=f"{R}/resume/{{backbone}}/{{recipe}}",
        tensorboard=f"{R}/logs/{{backbone}}/{{recipe}}/tensorboard",
        dataset=to_json(PROJECT.datasets[CONFIG.pairs]),
    shell:
        "{params.launch} gcl.train --name {wildcards.backbone:q} --backbone {params.backbone:q} --recipe {params.recipe:q}"
        " --seeds {params.seeds} {params.paths:q} --device {params.device} --workers {threads} --dataset {params.dataset:q}"
        " --resume {params.resume:q} --tensorboard {params.tensorboard:q}"
        " --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"


rule export:
    """Export {wildcards.recipe} on {wildcards.backbone} to ONNX"""
    input:
        unpack(export_inputs),
        code=family_code("export"),
    output:
        directory(f"{R}/onnx/{{backbone}}/{{recipe}}"),
    log:
        err=f"{R}/logs/{{backbone}}/{{recipe}}/export.log",
        manifest=f"{R}/manifests/{{backbone}}/{{recipe}}/export.json",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        row=lambda w: to_json(PROJECT.backbones[w.backbone]),
        kind=lambda w: "heads" if is_heads(w.recipe) else "all",
        paths=flags("checkpoints", "towers"),
    shell:
        "python -m gcl.export --kind {params.kind} --name {wildcards.backbone:q} --backbone {params.row:q}"
        " {params.paths:q} --output {output:q} --manifest {log.manifest:q} 2> >(tee {log.err:q} >&2)"
