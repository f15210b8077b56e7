"""Flags of transformers' scripts and of other tools, with what to use here instead."""

_GROUPS = {
    # the model
    "use --model_init_path, or --model_init_name for a folder in mount/models":
        "model_name_or_path model_name model_path model pretrained_model_name_or_path base_model",
    "remove it; the settings in the model's own folder are used":
        "tokenizer_name config_name config_overrides use_fast_tokenizer "
        "resize_position_embeddings generation_config",
    "set the environment variable HF_HOME": "cache_dir",
    "download that revision, then use --model_init_path": "model_revision revision",
    "remove it; code in a model's folder is never run": "trust_remote_code",
    "set the environment variable HF_TOKEN": "token use_auth_token hub_token",
    "set the environment variable HF_HUB_OFFLINE=1": "local_files_only",
    "use --tuning lora":
        "use_lora use_peft peft lora use_adapter train_adapter adapter peft_type finetuning_type",
    "use --lora_r": "lora_rank",
    "use --lora_target_modules": "lora_target target_modules",
    "use --freeze": "freeze_encoder freeze_embeds freeze_layers freeze_trainable_layers",
    "use --load_in_4bit or --load_in_8bit with an adapter (--tuning)":
        "quantization use_qlora qlora quantization_config quantization_bit",
    # data
    "use --data_name; one name stands for all splits":
        "train_file validation_file test_file eval_file train_data eval_data train_path data_path "
        "dataset_name dataset dataset_config_name dataset_config data_dir task_name",
    'remove it; name the keys "prompt" and "completion" in the data (clf.py: "input", "target")':
        "text_column summary_column source_column target_column prompt_column completion_column "
        "input_column question_column answer_column context_column column_names text_column_name "
        "label_column_name",
    "write the prefix into the prompts (clf.py: use --template)": "source_prefix prefix",
    "use --max_source_length and --max_target_length":
        "max_seq_length max_length model_max_length max_len block_size",
    "use --max_source_length": "max_input_length max_source_len max_prompt_length",
    "use --max_target_length": "max_output_length max_target_len max_answer_length",
    "use --eval_fraction, e.g. 0.1":
        "validation_split_percentage validation_split test_size val_size eval_ratio",
    "remove it; batches are padded as little as possible, and the loss ignores padding":
        "pad_to_max_length pad_to_multiple_of ignore_pad_token_for_loss",
    "remove it, and write a data file with fewer records":
        "max_train_samples max_eval_samples max_val_samples max_predict_samples max_samples",
    "remove it; data that changed are tokenized again": "overwrite_cache",
    "remove it; data are tokenized once and then read from the cache":
        "preprocessing_num_workers num_proc num_workers dataloader_num_workers "
        "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
        "dataloader_drop_last streaming remove_unused_columns label_names",
    "remove it; batches are shuffled by --seed and sorted by length inside a step":
        "group_by_length length_column_name sortish_sampler train_sampling_strategy shuffle",
    "use --seed": "data_seed",
    # training and evaluation
    "remove it; a run trains unless --no_train is given": "do_train",
    "remove it; use --eval_steps for how often to evaluate": "do_eval",
    "remove it, or use --no_train to only evaluate; evaluations predict all eval records":
        "do_predict predict_with_generate",
    "use --no_train": "eval_only evaluate predict test_only",
    "use --training_run_name": "output_dir run_name experiment_name exp_name save_dir",
    "use --overwrite_output_dir": "overwrite_output",
    "remove it; the same command resumes (from another run: --resume_from_checkpoint)":
        "resume resume_from",
    # batches and steps
    "use --train_batch_size (examples over all devices), and --micro_batch_tokens to bound memory":
        "per_device_train_batch_size per_gpu_train_batch_size",
    "use --train_batch_size": "batch_size bs train_bs",
    "use --eval_batch_size": "per_device_eval_batch_size per_gpu_eval_batch_size eval_bs",
    "remove it; --micro_batch_tokens auto finds what fits": "auto_find_batch_size",
    "use --gradient_accumulation_steps":
        "gradient_accumulation accumulation_steps grad_accum grad_acc_steps "
        "accumulate_grad_batches",
    "use --num_train_epochs": "epochs num_epochs n_epochs epoch max_epochs",
    "use --max_steps": "steps num_steps num_train_steps max_train_steps train_steps",
    # the optimizer
    "use --learning_rate": "lr",
    "use --warmup_steps (below 1: share of the run)": "warmup_ratio warmup_proportion warmup",
    "use --lr_scheduler_type": "lr_scheduler scheduler",
    "use --optim, e.g. --optim adafactor": "adafactor optimizer",
    "remove it; AdamW runs with betas 0.9 and 0.999 and epsilon 1e-8":
        "adam_beta1 adam_beta2 adam_epsilon optim_args",
    "use --max_grad_norm": "clip_grad_norm max_norm gradient_clipping grad_clip",
    "use --weight_decay": "wd",
    "use --label_smoothing_factor": "label_smoothing",
    "use --dropout_rate": "dropout",
    # evaluation and decoding
    "use --eval_steps": "eval_strategy evaluation_strategy evaluate_during_training eval_every",
    "use --logging_steps": "logging_strategy log_every",
    "use --eval_on_start false": "eval_delay",
    "remove it; runs do this by default":
        "eval_accumulation_steps batch_eval_metrics include_for_metrics prediction_loss_only "
        "logging_first_step log_level disable_tqdm logging_nan_inf_filter skip_memory_metrics "
        "save_only_model save_safetensors save_on_each_node",
    "remove it; there is no early stopping, but the checkpoint that is best by "
    "--metric_for_best_model is kept":
        "early_stopping early_stopping_patience early_stopping_threshold patience",
    "use --max_new_tokens":
        "generation_max_length val_max_target_length max_gen_length max_generate_length "
        "gen_max_len max_generation_length",
    "use --num_beams": "generation_num_beams beams beam_size num_beam eval_beams",
    "use --temperature; tokens are sampled at 0.01 or more": "do_sample",
    "use --n_samples": "num_return_sequences num_samples",
    "remove it; beam search has no length penalty": "length_penalty",
    # checkpoints and trackers
    "use --save_steps": "save_strategy save_every",
    "remove it; the checkpoint that is best by --metric_for_best_model is kept":
        "load_best_model_at_end greater_is_better",
    "remove it, and upload a checkpoint with the command `hf upload`":
        "push_to_hub hub_model_id hub_strategy hub_private_repo",
    "remove it; --report_to tensorboard writes events into the run's folder": "logging_dir",
    "use --report_to": "use_wandb use_tensorboard",
    "set the environment variables WANDB_PROJECT and WANDB_ENTITY": "wandb_project wandb_entity",
    # precision and processes
    "use --bf16 true, or --bf16 false for float32; T5 overflows in fp16": "fp16",
    "use --bf16 true, or --bf16 false for float32":
        "fp16_opt_level fp16_backend fp16_full_eval half_precision_backend bf16_full_eval "
        "mixed_precision precision torch_dtype dtype amp",
    "remove it; PyTorch's own setting is used": "tf32",
    "use --torch_compile, with torch's own backend and mode":
        "torch_compile_backend torch_compile_mode jit_mode_eval",
    "remove it; kernels are chosen by model and device":
        "use_liger_kernel attn_implementation use_flash_attention flash_attn",
    "use --gradient_checkpointing": "gradient_checkpointing_kwargs use_reentrant",
    "use --deepspeed FILE": "deepspeed_config ds_config deepspeed_file",
    "use --zero_stage (3: like full sharding)":
        "fsdp fsdp_config fsdp_transformer_layer_cls_to_wrap",
    "use --zero_stage": "zero zero_optimization stage",
    "use --offload": "cpu_offload offload_optimizer",
    "use --device cpu": "no_cuda use_cpu use_mps_device",
    "set CUDA_VISIBLE_DEVICES, or use --num_processes; all visible GPUs are used":
        "gpu gpus n_gpu num_gpus gpu_ids",
    "remove it; a launcher or --num_processes starts the processes":
        "ddp_backend ddp_find_unused_parameters ddp_timeout ddp_bucket_cap_mb accelerator_config "
        "world_size master_port master_addr",
}  # fmt: skip

FOREIGN = {name: hint for hint, names in _GROUPS.items() for name in names.split()}
"""The hint for each flag of another tool."""
